//! Names and paths that must stay what they are in a file system or a host name.

use crate::fields::At;

/// A name as Kubernetes wants it of pods: lower-case letters, digits, `-` and `.`.
pub(crate) fn subdomain(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if text.len() <= 253 && text.split('.').all(|part| part.len() <= 253 && is_label(part)) {
        return Some(text);
    }
    at.refuse(format!(
        "{}: give lower-case letters, digits, '-' and '.', a letter or digit at both ends, at most 253",
        at.shown()
    ));
    None
}

/// A name as Kubernetes wants it of containers and volumes: no points, at most 63.
pub(crate) fn label(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if text.len() <= 63 && is_label(&text) {
        return Some(text);
    }
    at.refuse(format!(
        "{}: give lower-case letters, digits and '-', a letter or digit at both ends, at most 63",
        at.shown()
    ));
    None
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A path from the root, without `..`.
pub(crate) fn absolute(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if text.starts_with('/') && is_tidy(&text) {
        return Some(text);
    }
    at.refuse(format!(
        "{}: give a path that begins with '/' and has no '..'",
        at.shown()
    ));
    None
}

/// A path below something, without `..`.
pub(crate) fn relative(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    if !text.is_empty() && !text.starts_with('/') && is_tidy(&text) {
        return Some(text);
    }
    at.refuse(format!(
        "{}: give a path without '/' at its beginning and without '..'",
        at.shown()
    ));
    None
}

/// Whether a path says where it leads.
pub(crate) fn is_tidy(path: &str) -> bool {
    path.len() <= 4096 && !path.contains('\0') && !path.split('/').any(|part| part == "..")
}
