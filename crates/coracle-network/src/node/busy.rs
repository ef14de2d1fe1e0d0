//! One operation at a time on a pod.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

use coracle_types::PodSandboxId;

/// Pods on which an operation is under way; a second one waits.
#[derive(Debug, Default)]
pub(super) struct Busy {
    pods: Mutex<HashSet<PodSandboxId>>,
    left: Condvar,
}

/// The right to work on a pod; it ends with the value.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    busy: &'a Busy,
    pod: PodSandboxId,
}

impl Busy {
    /// Waits until nobody else is at the pod.
    pub(super) fn enter(&self, pod: &PodSandboxId) -> Turn<'_> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods = self
            .left
            .wait_while(pods, |pods| pods.contains(pod))
            .unwrap_or_else(PoisonError::into_inner);
        pods.insert(pod.clone());
        Turn {
            busy: self,
            pod: pod.clone(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy
            .pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.pod);
        self.busy.left.notify_all();
    }
}
