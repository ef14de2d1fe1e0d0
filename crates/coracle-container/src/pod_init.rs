//! The first process of a pod's shared PID namespace: a static program of a few KB that reaps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::namespace::Namespace;

/// A pod init to start.
#[derive(Debug)]
pub struct PodInitRequest<'a> {
    /// Namespaces of the pod that it joins (ipc, uts, net, user).
    pub join: Vec<(Namespace, PathBuf)>,
    /// Where it lives.
    pub cgroup: Option<&'a Cgroup>,
    /// The file on which its PID namespace is pinned.
    pub pid_pin: Option<PathBuf>,
    /// User and group as which it runs.
    pub user: (u32, u32),
}

/// A running pod init.
#[derive(Debug)]
pub struct PodInit {
    pid: Pid,
    pidfd: OwnedFd,
}

impl PodInit {
    /// Its number in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its descriptor.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Starts one in a new PID namespace. It ends on SIGTERM; with it every process of the namespace ends.
///
/// # Errors
/// The step that failed; nothing is left then.
pub fn spawn(request: &PodInitRequest<'_>) -> Result<PodInit, Error> {
    let _ = request;
    Err(Error::unsupported("pod init", "", "not yet"))
}
