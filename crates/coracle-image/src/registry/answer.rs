//! What hosts answer, read within bounds and put into words that hold no secret.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use coracle_types::Digest;
use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;

use super::error::{RegistryError, causes};

/// Longest body of an error that is looked into, in bytes.
const MAX_ERROR: u64 = 16 << 10;
/// Within this a document is here, which has at most some megabytes.
const DOCUMENT_TIME: Duration = Duration::from_secs(300);

pub(super) fn unreachable(host: &str, error: reqwest::Error) -> RegistryError {
    let error = error.without_url();
    if error.is_redirect() || error.is_builder() {
        return RegistryError::Protocol {
            host: host.to_owned(),
            reason: causes(&error),
        };
    }
    let mut reason = causes(&error);
    if reason.contains("CaUsedAsEndEntity") {
        reason.push_str(": the server shows an authority's certificate as its own; issue one for it");
    }
    RegistryError::Unreachable {
        host: host.to_owned(),
        reason,
    }
}

/// The bytes of a blob as they come. A host that sends next to nothing is as one that is silent: it would hold
/// a connection for ever.
pub(crate) struct Body {
    response: Response,
    host: String,
    /// How long a host may be silent.
    patience: Duration,
    /// Time waited since it was last seen to send enough, and what came in it.
    waited: Duration,
    came: u64,
}

impl Body {
    /// Less than this within the time in which silence is a fault is silence.
    const TRICKLE: u64 = 16 << 10;

    pub(crate) fn new(response: Response, host: &str, patience: Duration) -> Self {
        Self {
            response,
            host: host.to_owned(),
            patience,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// The next bytes and how long they were waited for; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<(Bytes, Duration)>, RegistryError> {
        let asked = Instant::now();
        let chunk = self.response.chunk().await;
        let Some(chunk) = chunk.map_err(|error| unreachable(&self.host, error))? else {
            return Ok(None);
        };
        let waited = asked.elapsed();
        self.waited += waited;
        self.came += chunk.len() as u64;
        if self.came >= Self::TRICKLE {
            (self.waited, self.came) = (Duration::ZERO, 0);
        } else if self.waited > self.patience {
            return Err(RegistryError::Unreachable {
                host: self.host.clone(),
                reason: format!("it sent {} bytes in {:.0?}", self.came, self.waited),
            });
        }
        Ok(Some((chunk, waited)))
    }
}

pub(super) fn too_large(host: &str, subject: &str, limit: u64) -> RegistryError {
    RegistryError::TooLarge {
        host: host.to_owned(),
        subject: subject.to_owned(),
        limit,
    }
}

pub(super) fn busy(host: &str, response: &Response, code: String) -> RegistryError {
    let text = header_text(response, RETRY_AFTER.as_str());
    RegistryError::Busy {
        host: host.to_owned(),
        status: response.status().as_u16(),
        code,
        retry_after: retry_after(text.trim(), SystemTime::now()),
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3); a date that is past is no wait.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        }
    }
}

pub(super) fn header_text(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn content_digest(response: &Response) -> Option<Digest> {
    header_text(response, "docker-content-digest").parse().ok()
}

pub(super) async fn read_bounded(
    mut response: Response,
    limit: u64,
    host: &str,
    subject: &str,
) -> Result<Bytes, RegistryError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large(host, subject, limit));
    }
    let reading = async {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(host, error))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large(host, subject, limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    };
    let read = tokio::time::timeout(DOCUMENT_TIME, reading).await;
    read.unwrap_or_else(|_| {
        Err(RegistryError::Unreachable {
            host: host.to_owned(),
            reason: format!("{subject} did not come within {DOCUMENT_TIME:?}"),
        })
    })
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own code, and its words when no secret was sent that they might repeat.
pub(super) async fn error_code(response: Response, authenticated: bool) -> String {
    let Ok(body) = read_bounded(response, MAX_ERROR, "", "").await else {
        return String::new();
    };
    let Ok(mut body) = serde_json::from_slice::<ErrorBody>(&body) else {
        return String::new();
    };
    if body.errors.is_empty() {
        return String::new();
    }
    let entry = body.errors.swap_remove(0);
    let code: String = entry
        .code
        .chars()
        .filter(|c| c.is_ascii_uppercase() || *c == '_')
        .take(40)
        .collect();
    let message: String = entry
        .message
        .chars()
        .filter(|c| !c.is_control())
        .take(160)
        .collect();
    match (code.is_empty(), authenticated || message.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!(" {code}"),
        (true, false) => format!(" {message:?}"),
        (false, false) => format!(" {code} {message:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_say_when_to_come_back_in_two_ways() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sat, 06 Nov 1993 08:49:37 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
