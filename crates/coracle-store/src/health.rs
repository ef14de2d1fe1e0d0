//! Whether commits succeed, and since when they do not.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::database::StoreError;

/// Why what is remembered does not reach the disk.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// When the first of the commits in a row failed.
    pub since: Instant,
    /// What the last one said.
    pub error: StoreError,
}

/// `None` when the last commit succeeded.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<Trouble>>);

impl Health {
    pub(crate) fn note(&self, outcome: &Result<(), StoreError>) {
        let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = outcome.as_ref().err().map(|error| Trouble {
            since: trouble.as_ref().map_or_else(Instant::now, |last| last.since),
            error: error.clone(),
        });
    }

    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_from_the_first_failure_to_the_next_success() {
        let health = Health::default();
        let since = || {
            let trouble = health.trouble();
            trouble.map(|trouble| (trouble.since, trouble.error.to_string()))
        };
        let failed = |reason: &str| {
            Err(StoreError::Commit {
                full: false,
                reason: reason.to_owned(),
            })
        };
        health.note(&Ok(()));
        assert!(since().is_none());
        health.note(&failed("one"));
        let (begun, _) = since().unwrap();
        health.note(&failed("two"));
        let (now, error) = since().unwrap();
        assert!(now == begun && error.contains("two"), "{error}");
        health.note(&Ok(()));
        assert!(since().is_none());
    }
}
