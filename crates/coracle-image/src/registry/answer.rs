//! What hosts answer, read within bounds and put into words that hold no secret.

use std::time::Duration;

use bytes::Bytes;
use coracle_types::Digest;
use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;

use super::error::{RegistryError, causes};

/// Longest body of an error that is looked into, in bytes.
const MAX_ERROR: u64 = 16 << 10;

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

/// A failure in the middle of a body.
pub(crate) fn broken_body(host: &str, error: reqwest::Error) -> RegistryError {
    unreachable(host, error)
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
        // The date form is in use nowhere among registries; it reads as none.
        retry_after: text.trim().parse::<u64>().ok().map(Duration::from_secs),
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
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken_body(host, error))? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(too_large(host, subject, limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
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
