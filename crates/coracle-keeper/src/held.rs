//! What the keeper holds: deposits of pods, their processes, exits not yet taken.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use coracle_types::time::UnixNanos;
use coracle_types::{Kind, PodSandboxId};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus};

use crate::wire::{DEPOSITS_MAX, DepositKey, OrphanExit};

/// One deposit: descriptors and, when the first is a pidfd, its process.
pub(crate) struct Deposit {
    pub(crate) pid: Option<i32>,
    pub(crate) descriptors: Vec<OwnedFd>,
    exit: Option<OrphanExit>,
}

/// All deposits, by pod and key.
#[derive(Default)]
pub(crate) struct Held {
    pods: BTreeMap<PodSandboxId, BTreeMap<DepositKey, Deposit>>,
    /// Forked shims that have not ended.
    shims: BTreeMap<i32, PodSandboxId>,
}

/// Why something was not done.
pub(crate) type Refusal = (Kind, String);

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.shims.is_empty()
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.pods.len(), self.shims.len())
    }

    pub(crate) fn shim_of(&self, pod: &PodSandboxId) -> Option<i32> {
        self.shims.iter().find(|(_, of)| *of == pod).map(|(pid, _)| *pid)
    }

    /// Every pod of which there is a shim or a deposit.
    pub(crate) fn pods(&self) -> Vec<PodSandboxId> {
        let mut pods: Vec<_> = self.pods.keys().chain(self.shims.values()).cloned().collect();
        pods.sort_unstable();
        pods.dedup();
        pods
    }

    pub(crate) fn add_shim(&mut self, pid: i32, pod: PodSandboxId) {
        self.shims.insert(pid, pod);
    }

    pub(crate) fn deposit(
        &mut self,
        pod: PodSandboxId,
        key: DepositKey,
        pid: Option<i32>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        if descriptors.is_empty() {
            return Err((
                Kind::InvalidArgument,
                format!("deposit {key} of pod {pod} has no descriptor"),
            ));
        }
        let deposits = self.pods.entry(pod.clone()).or_default();
        if deposits.len() >= DEPOSITS_MAX && !deposits.contains_key(&key) {
            return Err((
                Kind::ResourceExhausted,
                format!("pod {pod} has {DEPOSITS_MAX} deposits already; remove some"),
            ));
        }
        deposits.insert(
            key,
            Deposit {
                pid,
                descriptors,
                exit: None,
            },
        );
        Ok(())
    }

    pub(crate) fn keys(&self, pod: &PodSandboxId) -> Vec<DepositKey> {
        self.pods
            .get(pod)
            .map(|deposits| deposits.keys().cloned().collect())
            .unwrap_or_default()
    }

    pub(crate) fn get(&self, pod: &PodSandboxId, key: &DepositKey) -> Result<&Deposit, Refusal> {
        self.pods
            .get(pod)
            .and_then(|deposits| deposits.get(key))
            .ok_or_else(|| (Kind::NotFound, format!("no deposit {key} of pod {pod}")))
    }

    pub(crate) fn remove(&mut self, pod: &PodSandboxId, key: &DepositKey) {
        if let Some(deposits) = self.pods.get_mut(pod) {
            deposits.remove(key);
            if deposits.is_empty() {
                self.pods.remove(pod);
            }
        }
    }

    pub(crate) fn forget(&mut self, pod: &PodSandboxId) {
        self.pods.remove(pod);
    }

    pub(crate) fn take_exit(&mut self, pod: &PodSandboxId, key: &DepositKey) -> Option<OrphanExit> {
        self.pods.get_mut(pod)?.get_mut(key)?.exit.take()
    }

    /// Reaps every child that has ended and keeps the exits of deposited ones.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some(pid)) = coracle_sys::signalfd::ended_child() {
            if !self.reap_deposited(pid) {
                reap_any(pid);
            }
            self.shims.remove(&pid);
        }
    }

    /// Whether `pid` was the process of a deposit and is reaped now. The pid alone proves nothing, it may
    /// have been given to another process since: the deposited pidfd must be the one that has ended.
    fn reap_deposited(&mut self, pid: i32) -> bool {
        let deposits = self.pods.values_mut().flat_map(BTreeMap::values_mut);
        for deposit in deposits.filter(|deposit| deposit.pid == Some(pid)) {
            let Some(pidfd) = deposit.descriptors.first() else {
                continue;
            };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Ok(Some(status)) = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
                deposit.exit = Some(OrphanExit {
                    code: exit_code(&status),
                    at: UnixNanos::now(),
                });
                return true;
            }
        }
        false
    }
}

fn reap_any(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It is an ended child of this process; there is nothing to do about a failure.
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// The code a shell would show.
fn exit_code(status: &WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("/dev/null").into()
    }

    #[test]
    fn a_pod_is_gone_with_its_last_deposit() {
        let (pod, key) = (PodSandboxId::generate(), "a".parse::<DepositKey>().expect("key"));
        let mut held = Held::default();
        held.deposit(pod.clone(), key.clone(), None, vec![null()])
            .expect("deposit");
        assert_eq!(held.keys(&pod), vec![key.clone()]);
        held.remove(&pod, &key);
        assert!(held.is_empty());
    }

    #[test]
    fn a_deposit_without_a_descriptor_is_refused() {
        let key = "a".parse::<DepositKey>().expect("key");
        assert!(
            Held::default()
                .deposit(PodSandboxId::generate(), key, None, Vec::new())
                .is_err()
        );
    }

    #[test]
    fn one_pod_cannot_fill_the_keeper() {
        let pod = PodSandboxId::generate();
        let mut held = Held::default();
        // One descriptor serves for the count: `Deposit` owns it, so duplicate a few only.
        for index in 0..DEPOSITS_MAX {
            let key = format!("k{index}").parse::<DepositKey>().expect("key");
            let deposits = held.pods.entry(pod.clone()).or_default();
            deposits.insert(
                key,
                Deposit {
                    pid: None,
                    descriptors: Vec::new(),
                    exit: None,
                },
            );
        }
        let key = "one-more".parse::<DepositKey>().expect("key");
        let refusal = held.deposit(pod, key, None, vec![null()]).expect_err("full");
        assert_eq!(refusal.0, Kind::ResourceExhausted);
    }
}
