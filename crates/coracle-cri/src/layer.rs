//! Around every call: the caller's deadline, its number in the log, and who counts it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, error_span};

use crate::process::Meter;

/// Puts [`Call`] around a service.
#[derive(Clone)]
pub(crate) struct CallLayer {
    meter: Arc<dyn Meter>,
}

impl CallLayer {
    pub(crate) fn new(meter: Arc<dyn Meter>) -> Self {
        Self { meter }
    }
}

/// Answers DeadlineExceeded when the caller's `grpc-timeout` has passed.
///
/// The server below would answer Cancelled, which clients take for their own doing.
#[derive(Clone)]
pub(crate) struct Call<S> {
    below: S,
    meter: Arc<dyn Meter>,
}

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, below: S) -> Call<S> {
        let meter = Arc::clone(&self.meter);
        Call { below, meter }
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
        let span = error_span!("call", call = name(&path), request = next_request());
        let work = self.below.call(request).instrument(span.clone());
        let counted = Counted::new(Arc::clone(&self.meter), &path);
        let answer = async move {
            // The whole of it: a block that uses one field would take a copy of that alone.
            let mut counted = counted;
            let outcome = match timer {
                None => work.await,
                Some(timer) => tokio::select! {
                    biased;
                    outcome = work => outcome,
                    () = timer => Ok(expired(&path, deadline.unwrap_or_default()).into_http()),
                },
            };
            if let Ok(response) = &outcome {
                counted.code = code_of(response.headers());
            }
            tracing::debug!(code = counted.code, took = ?counted.began.elapsed(), "answered");
            outcome
        };
        Box::pin(answer.instrument(span))
    }
}

/// Numbers calls in the log; 0 is nobody's.
fn next_request() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A status that is not in the head comes after the answer's body, and is OK.
fn code_of(headers: &HeaderMap) -> i32 {
    let code = headers.get("grpc-status").and_then(|code| code.to_str().ok());
    code.and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// A call that is counted when this goes, also because its client left.
struct Counted {
    meter: Arc<dyn Meter>,
    call: String,
    began: Instant,
    code: i32,
}

impl Counted {
    fn new(meter: Arc<dyn Meter>, path: &str) -> Self {
        Self {
            meter,
            call: name(path).to_owned(),
            began: Instant::now(),
            code: Code::Cancelled as i32,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // A client may ask for whatever name it likes; those that are offered are few.
        let call = if self.code == Code::Unimplemented as i32 {
            "unknown"
        } else {
            &self.call
        };
        self.meter.answered(call, self.code, self.began.elapsed());
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
        let response = CallLayer::new(Arc::new(()))
            .layer(stuck)
            .call(request)
            .await
            .unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
        let message = response.headers()["grpc-message"].to_str().unwrap();
        assert!(message.starts_with("RunPodSandbox"), "{message}");
    }

    #[derive(Default)]
    struct Heard(std::sync::Mutex<Vec<(String, i32)>>);

    impl Meter for Heard {
        fn answered(&self, call: &str, code: i32, _: Duration) {
            self.0.lock().unwrap().push((call.to_owned(), code));
        }
    }

    #[tokio::test]
    async fn every_call_is_counted_once_with_its_code() {
        let heard = Arc::new(Heard::default());
        let layer = CallLayer::new(Arc::clone(&heard) as Arc<dyn Meter>);
        let mut service = layer.layer(tower::service_fn(|request: Request<Body>| async move {
            Ok::<_, Infallible>(match request.uri().path() {
                "/s/Good" => Response::new(Body::empty()),
                "/s/Bad" => Status::not_found("it").into_http(),
                "/s/Slow" => std::future::pending().await,
                _ => Status::unimplemented("that").into_http(),
            })
        }));
        for path in ["/s/Good", "/s/Bad", "/s/whatever-a-client-likes"] {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().unwrap();
            service.call(request).await.unwrap();
        }
        let mut slow = Request::new(Body::empty());
        *slow.uri_mut() = "/s/Slow".parse().unwrap();
        drop(service.call(slow));
        let heard: Vec<_> = std::mem::take(&mut *heard.0.lock().unwrap());
        let heard: Vec<_> = heard.iter().map(|(call, code)| (call.as_str(), *code)).collect();
        assert_eq!(heard, [("Good", 0), ("Bad", 5), ("unknown", 12), ("Slow", 1)]);
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
