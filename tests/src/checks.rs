//! What tests assert in one line.

use std::fmt::Debug;

use tonic::{Code, Status};

/// Fails unless a call was refused with one of these codes.
///
/// # Panics
/// When it succeeded or was refused otherwise.
pub fn refused<T: Debug>(what: &str, answer: Result<T, Status>, codes: &[Code]) -> String {
    match answer {
        Ok(value) => panic!("{what} was accepted: {value:?}"),
        Err(status) => {
            assert!(
                codes.contains(&status.code()),
                "{what}: {:?} instead of {codes:?}: {}",
                status.code(),
                status.message()
            );
            assert!(!status.message().is_empty(), "{what}: refused without a word");
            status.message().to_owned()
        }
    }
}

/// Fails unless the text holds every part.
///
/// # Panics
/// When a part is missing.
pub fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}
