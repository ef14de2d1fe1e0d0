//! Around every call: the caller's deadline, and a line in the log at level debug.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

/// Puts [`Call`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CallLayer;

/// Answers DeadlineExceeded when the caller's `grpc-timeout` has passed.
///
/// The server below would answer Cancelled, which clients take for their own doing.
#[derive(Debug, Clone)]
pub(crate) struct Call<S> {
    below: S,
}

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, below: S) -> Call<S> {
        Call { below }
    }
}

impl<S> Service<Request<Body>> for Call<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.below.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let deadline = timeout_of(request.headers());
        // A millisecond less, so that this timer is always before the server's own.
        let timer = deadline.map(|deadline| {
            Box::pin(tokio::time::sleep(
                deadline.saturating_sub(Duration::from_millis(1)),
            ))
        });
        let work = self.below.call(request);
        Box::pin(async move {
            let began = Instant::now();
            let outcome = match timer {
                None => work.await,
                Some(timer) => tokio::select! {
                    biased;
                    outcome = work => outcome,
                    () = timer => Ok(expired(&path, deadline.unwrap_or_default()).into_http()),
                },
            };
            let took = began.elapsed();
            if let Ok(response) = &outcome {
                let code = response
                    .headers()
                    .get("grpc-status")
                    .and_then(|code| code.to_str().ok());
                tracing::debug!(call = name(&path), code = code.unwrap_or("0"), ?took, "answered");
            }
            outcome
        })
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn expired(path: &str, deadline: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "{}: the caller's deadline of {deadline:?} passed; what was begun goes on, and the same call again joins it",
        name(path)
    ))
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_that_passes_is_said_to_be_one() {
        let stuck = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/runtime.v1.RuntimeService/RunPodSandbox".parse().unwrap();
        request
            .headers_mut()
            .insert("grpc-timeout", "5m".parse().unwrap());
        let response = CallLayer.layer(stuck).call(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
        let message = response.headers()["grpc-message"].to_str().unwrap();
        assert!(message.starts_with("RunPodSandbox"), "{message}");
    }

    #[test]
    fn timeouts_are_read_and_others_are_none() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout_of(&headers)
        };
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", " 1S", "1.5S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()), None);
    }
}
