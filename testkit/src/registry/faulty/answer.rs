//! The right answer to a request (OCI distribution specification, "Pull"), and what trouble makes of it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use tokio_stream::{Stream, StreamExt};

use super::{Asked, Login, State, Trouble, challenge};
use crate::registry::{PASSWORD, USER};

/// The body of an answer: whole, in pieces, or ending in an error, which closes the connection.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// The only token that is given and taken.
const TOKEN: &str = "a-token-of-the-testkit";

/// What is about to be sent, before trouble.
pub(super) struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    content: Bytes,
    head_only: bool,
}

impl Answer {
    fn new(status: StatusCode, content: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: content.into(),
            head_only: false,
        }
    }

    fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn refusal(status: StatusCode, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"by the testkit"}}]}}"#);
        Self::new(status, body).header(CONTENT_TYPE, "application/json")
    }
}

pub(super) fn right(state: &State, asked: &Asked) -> Answer {
    let mut answer = content(state, asked);
    answer.head_only = asked.method == "HEAD";
    answer
}

fn content(state: &State, asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap_or_default();
    let basic = format!("Basic {}", base64_of(&format!("{USER}:{PASSWORD}")));
    let given = asked.authorization.as_deref();
    if path == "/token" {
        return if given == Some(basic.as_str()) {
            let body = format!(r#"{{"token":"{TOKEN}","access_token":"{TOKEN}","expires_in":300}}"#);
            Answer::new(StatusCode::OK, body).header(CONTENT_TYPE, "application/json")
        } else {
            Answer::refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
        };
    }
    let (allowed, challenge) = match state.login {
        Login::None => (true, String::new()),
        Login::Basic => (
            given == Some(basic.as_str()),
            "Basic realm=\"coracle\"".to_owned(),
        ),
        Login::Bearer => (
            given == Some(&format!("Bearer {TOKEN}")),
            challenge(&state.authority),
        ),
    };
    if !allowed {
        let refusal = Answer::refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        return refusal.header(WWW_AUTHENTICATE, challenge);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Answer::refusal(StatusCode::NOT_FOUND, "NOT_FOUND");
    };
    if let Some((repository, name)) = rest.rsplit_once("/manifests/") {
        return match state.manifests.get(&(repository.to_owned(), name.to_owned())) {
            Some((content_type, content)) => Answer::new(StatusCode::OK, content.clone())
                .header(CONTENT_TYPE, content_type)
                .header(
                    HeaderName::from_static("docker-content-digest"),
                    crate::image::digest(content).to_string(),
                ),
            None => Answer::refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        };
    }
    if let Some((_, digest)) = rest.rsplit_once("/blobs/") {
        return match state.blobs.get(digest) {
            Some(content) => blob(content, asked.range.as_deref()),
            None => Answer::refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        };
    }
    Answer::new(StatusCode::OK, "{}").header(CONTENT_TYPE, "application/json")
}

/// Where what is asked for begins.
pub(super) fn begin(asked: &Asked) -> usize {
    asked.range.as_deref().and_then(first_byte).unwrap_or_default()
}

fn first_byte(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

/// Whole, or from where `bytes=N-` asks to go on.
fn blob(content: &Bytes, range: Option<&str>) -> Answer {
    let from = range.and_then(first_byte).filter(|from| *from < content.len());
    let answer = match from {
        Some(from) => Answer::new(StatusCode::PARTIAL_CONTENT, content.slice(from..)).header(
            CONTENT_RANGE,
            format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
        ),
        None => Answer::new(StatusCode::OK, content.clone()),
    };
    answer.header(CONTENT_TYPE, "application/octet-stream")
}

/// The answer with a trouble; `authority` is the registry's own.
pub(super) async fn troubled(
    mut answer: Answer,
    trouble: Option<Trouble>,
    authority: &str,
) -> Response<Body> {
    let head_only = answer.head_only;
    let refusal = |status| Answer {
        head_only,
        ..Answer::refusal(status, "TROUBLE")
    };
    match trouble {
        None | Some(Trouble::Whole) => send(answer, whole),
        Some(Trouble::Status(code)) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut refusal = refusal(status);
            if status == StatusCode::TOO_MANY_REQUESTS {
                refusal = refusal.header(RETRY_AFTER, "1");
            }
            send(refusal, whole)
        }
        Some(Trouble::Busy(seconds)) => {
            let refusal = refusal(StatusCode::TOO_MANY_REQUESTS);
            send(refusal.header(RETRY_AFTER, seconds.to_string()), whole)
        }
        Some(Trouble::Challenge) => {
            let refusal = refusal(StatusCode::UNAUTHORIZED);
            send(refusal.header(WWW_AUTHENTICATE, challenge(authority)), whole)
        }
        Some(Trouble::Stall(after)) => send(answer, |content| stalled(&content, after)),
        Some(Trouble::Delay(time)) => {
            tokio::time::sleep(time).await;
            send(answer, whole)
        }
        Some(Trouble::Slow(piece)) => send(answer, |content| slowly(content, piece.max(1))),
        Some(Trouble::Cut(after) | Trouble::End(after)) => send(answer, |content| cut(&content, after)),
        Some(Trouble::Corrupt) => {
            let mut bytes = answer.content.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x40;
            }
            answer.content = bytes.into();
            send(answer, whole)
        }
        Some(Trouble::Silent) => std::future::pending().await,
        Some(Trouble::Redirect(place)) => send(
            Answer::new(StatusCode::TEMPORARY_REDIRECT, Bytes::new()).header(LOCATION, place),
            whole,
        ),
        Some(Trouble::Replace { content_type, body }) => {
            let mut other = Answer::new(StatusCode::OK, body).header(CONTENT_TYPE, content_type);
            other.head_only = answer.head_only;
            send(other, whole)
        }
    }
}

fn send(answer: Answer, body: impl FnOnce(Bytes) -> Body) -> Response<Body> {
    let length = answer.content.len();
    let content = if answer.head_only {
        whole(Bytes::new())
    } else {
        body(answer.content)
    };
    let mut response = Response::new(content);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    for (name, value) in answer.headers {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    response
}

fn whole(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed()
}

fn slowly(content: Bytes, piece: usize) -> Body {
    let pieces: Vec<Bytes> = (0..content.len())
        .step_by(piece)
        .map(|at| content.slice(at..content.len().min(at + piece)))
        .collect();
    streamed(
        tokio_stream::iter(pieces.into_iter().map(Ok)).then(|piece| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            piece
        }),
    )
}

fn cut(content: &Bytes, after: usize) -> Body {
    let head = content.slice(..content.len().min(after));
    let end = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "cut by the testkit");
    // What was sent must have left before the connection ends.
    streamed(tokio_stream::iter([Ok(head), Err(end)]).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        piece
    }))
}

fn stalled(content: &Bytes, after: usize) -> Body {
    let head = content.slice(..content.len().min(after));
    streamed(tokio_stream::once(Ok(head)).chain(tokio_stream::pending()))
}

fn streamed(pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed()
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
