//! How long a shim may take to answer, and what becomes of one that does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::error::Error;
use crate::shim::Shim;

/// How long shims may take; what is under way ends by what it began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For what a shim answers out of its memory or with a system call. Its one thread may be busy with an
    /// operation of another container meanwhile, which on a slow disk takes seconds.
    pub call: Duration,
    /// For what makes and ends processes, mounts and cgroups: the shim itself waits 10 s for each of them.
    pub operation: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(15),
            operation: Duration::from_mins(1),
        }
    }
}

/// Which of the [`Deadlines`] a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Call,
    Operation,
}

/// The deadlines of all shims of a node, in milliseconds.
#[derive(Debug)]
pub(crate) struct Patience {
    call: AtomicU64,
    operation: AtomicU64,
}

impl Patience {
    pub(crate) fn new(deadlines: Deadlines) -> Self {
        let patience = Self {
            call: AtomicU64::new(0),
            operation: AtomicU64::new(0),
        };
        patience.set(deadlines);
        patience
    }

    pub(crate) fn set(&self, deadlines: Deadlines) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.call.store(millis(deadlines.call), Ordering::Relaxed);
        self.operation
            .store(millis(deadlines.operation), Ordering::Relaxed);
    }

    pub(crate) fn of(&self, limit: Limit) -> Duration {
        Duration::from_millis(match limit {
            Limit::Call => self.call.load(Ordering::Relaxed),
            Limit::Operation => self.operation.load(Ordering::Relaxed),
        })
    }
}

/// A killed process is gone within milliseconds, unless it hangs in the kernel.
const DYING: Duration = Duration::from_secs(10);

impl Shim {
    /// The answer to a call, or the shim's end: one that is stopped or hangs would be in the way of its pod
    /// for ever, and another one can take over.
    pub(crate) async fn answered<T>(
        &self,
        call: &'static str,
        limit: Limit,
        answer: impl Future<Output = Result<T, ttrpc::Error>>,
    ) -> Result<T, Error> {
        let limit = self.0.patience.of(limit);
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(Error::of(call)),
            Err(_) => Err(self.give_up(call, limit).await),
        }
    }

    /// Has it killed; the error says whether it is gone.
    pub(crate) async fn give_up(&self, call: &'static str, waited: Duration) -> Error {
        let pod = self.0.pod.clone();
        let seconds = waited.as_secs();
        tracing::error!(%pod, call, seconds, "the shim does not answer and is killed");
        let killed = match self.0.shims.upgrade() {
            Some(shims) => shims.kill(&pod, &self.0.state_dir).await,
            None => false,
        };
        if killed && timeout(DYING, self.closed()).await.is_ok() {
            Error::Killed { call, pod, seconds }
        } else {
            Error::Silent { pod }
        }
    }
}
