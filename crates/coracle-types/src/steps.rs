//! Named steps of operations: what is slow or stuck is said by name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One finished (or running) step of an operation, for waterfalls, errors and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `operation.step`, known at compile time at its source.
    pub name: String,
    /// Since the operation began.
    pub start: Duration,
    /// How long it took; `None` while it runs.
    pub took: Option<Duration>,
}
