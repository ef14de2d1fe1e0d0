//! The engine's failures: operation, subject, cause.

use std::path::Path;

use coracle_types::{Kind, Kinded};

/// An operation of the engine failed.
///
/// Cloned to every request that had joined the operation, so a cause is kept as text with its chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct EngineError {
    kind: Kind,
    operation: &'static str,
    message: String,
}

impl EngineError {
    /// A failure of `operation` that was found here, in words that name subject, value and remedy.
    #[must_use]
    pub fn new(kind: Kind, operation: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            operation,
            message: message.into(),
        }
    }

    /// A failure of `operation` because something below it failed; keeps the kind and the chain.
    pub fn from_cause<E: Kinded>(operation: &'static str) -> impl Fn(E) -> Self {
        move |cause| Self {
            kind: cause.kind(),
            operation,
            message: chain(&cause),
        }
    }

    /// The same failure, with what it was about in front.
    #[must_use]
    pub fn about(mut self, subject: &str) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// The same failure; when something of the node is used up, with what to do about it.
    #[must_use]
    pub fn or_free(mut self, place: &Path) -> Self {
        if self.kind == Kind::ResourceExhausted {
            self.message = format!(
                "{}: free space on the file system of {}",
                self.message,
                place.display()
            );
        }
        self
    }

    /// What was said, without the operation.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Kinded for EngineError {
    fn kind(&self) -> Kind {
        self.kind
    }
}

/// An error and its causes in one line; a cause that its effect already quotes is not said twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}
