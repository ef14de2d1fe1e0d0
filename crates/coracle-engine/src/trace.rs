//! The steps of an operation, timed as they happen, readable while they run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use coracle_types::steps::Step;

use crate::operations::Running;

/// More than any pod's start has; a pod whose container restarts for ever keeps the first ones.
const MAX_STEPS: usize = 256;

/// The steps of one pod since RunPodSandbox was accepted, and the operation whose steps are taken now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    pod: Arc<Mutex<Steps>>,
    operation: Option<Arc<Running>>,
}

#[derive(Debug)]
struct Steps {
    began: Instant,
    steps: Vec<Step>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            steps: Vec::new(),
        }
    }
}

impl Trace {
    /// A trace that goes on from steps of an earlier daemon.
    #[must_use]
    pub(crate) fn resumed(steps: Vec<Step>) -> Self {
        let began = Instant::now();
        Self {
            pod: Arc::new(Mutex::new(Steps { began, steps })),
            operation: None,
        }
    }

    /// The same pod's trace, whose steps are those of `operation` from now on.
    #[must_use]
    pub(crate) fn of(&self, operation: Option<&Arc<Running>>) -> Self {
        Self {
            pod: Arc::clone(&self.pod),
            operation: operation.cloned(),
        }
    }

    /// Runs `future` as the step `name`, which stays in the pod's waterfall.
    pub(crate) async fn step<F: Future>(&self, name: &'static str, future: F) -> F::Output {
        let index = self.begin(name);
        let output = self.watch(name, future).await;
        self.end(index);
        output
    }

    /// Runs `future` as the step `name`, which is seen while it runs and timed, but not kept: for what
    /// happens after a start.
    pub(crate) async fn watch<F: Future>(&self, name: &'static str, future: F) -> F::Output {
        match &self.operation {
            Some(operation) => operation.step(name, future).await,
            None => future.await,
        }
    }

    /// The steps so far, in the order of their beginning.
    #[must_use]
    pub(crate) fn steps(&self) -> Vec<Step> {
        self.lock().steps.clone()
    }

    fn begin(&self, name: &'static str) -> Option<usize> {
        let mut steps = self.lock();
        if steps.steps.len() >= MAX_STEPS {
            return None;
        }
        let start = steps.began.elapsed();
        steps.steps.push(Step {
            name: name.to_owned(),
            start,
            took: None,
        });
        Some(steps.steps.len() - 1)
    }

    fn end(&self, index: Option<usize>) {
        let Some(index) = index else { return };
        let mut steps = self.lock();
        let now = steps.began.elapsed();
        if let Some(step) = steps.steps.get_mut(index) {
            step.took = Some(now.saturating_sub(step.start));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_under_way_is_seen_without_a_duration() {
        let trace = Trace::default();
        trace.step("run.ledger", async {}).await;
        trace
            .step("run.network", async {
                let steps = trace.steps();
                assert!(steps[0].took.is_some());
                assert_eq!((steps[1].name.as_str(), steps[1].took), ("run.network", None));
            })
            .await;
    }
}
