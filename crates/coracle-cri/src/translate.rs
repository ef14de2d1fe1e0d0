//! Between the wire's types and the project's own, both ways; each file has one family.
//!
//! What has no counterpart (an unknown enum number, a port that is none) is refused with the field's
//! name; what merely makes no sense is left for the engine to judge.

use std::fmt;

use coracle_engine::api::{Detail, IdPrefix};

pub(crate) mod container;
pub(crate) mod events;
pub(crate) mod image;
pub(crate) mod metrics;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod signal;
pub(crate) mod stats;

/// A field of a request has a value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    field: String,
    problem: String,
}

impl FieldError {
    /// `value` of `field` is not `expected`.
    pub(crate) fn new(field: &str, value: impl fmt::Debug, expected: &str) -> Self {
        let value: String = format!("{value:?}").chars().take(80).collect();
        Self {
            field: field.to_owned(),
            problem: format!("{value} is not {expected}"),
        }
    }

    /// `field` has to be given.
    pub(crate) fn missing(field: &str) -> Self {
        Self {
            field: field.to_owned(),
            problem: "is missing".to_owned(),
        }
    }

    /// The same, seen from the message around it.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// The value of an enum field, unless it is a number that this version of the CRI does not know.
pub(crate) fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, FieldError> {
    E::try_from(number)
        .map_err(|_| FieldError::new(field, number, "a value that CRI v1 (Kubernetes 1.37) knows"))
}

/// The id that a call is about. An id that is malformed is unknown, not wrong; one that is not there
/// at all would be the beginning of every id.
pub(crate) fn id(field: &str, text: String) -> Result<IdPrefix, FieldError> {
    if text.is_empty() {
        return Err(FieldError::missing(field));
    }
    Ok(IdPrefix(text))
}

/// An id of a filter; empty is any.
pub(crate) fn id_filter(text: String) -> IdPrefix {
    IdPrefix(text)
}

/// Whether a status is for people, too.
pub(crate) fn detail(verbose: bool) -> Detail {
    if verbose { Detail::Verbose } else { Detail::Plain }
}
