//! A process that keeps a cgroup from being empty until a container's first process is in it.
//!
//! systemd makes a scope only around a process that exists, and takes it away when the last one has left. So a copy
//! of this process, which does nothing but wait, is put into the scope; the container is then made as in any other
//! cgroup that exists, born in it by CLONE_INTO_CGROUP, and the stand-in leaves.

use std::os::fd::{AsFd as _, OwnedFd};

use coracle_sys::fork::{self, Forked};
use coracle_sys::process::{close_all_but, forbid_inspection};
use coracle_sys::{seqpacket, signals};
use rustix::process::Pid;

use crate::channel::hear_parent;
use crate::error::Error;
use crate::spawn::kill_and_reap;
use crate::step::{At as _, Step};

/// A waiting process; it ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub struct StandIn {
    pid: Pid,
    pidfd: OwnedFd,
    _lifeline: OwnedFd,
}

impl StandIn {
    /// Makes one, in the caller's namespaces and cgroup.
    ///
    /// # Errors
    /// When no process can be made; see [`coracle_sys::fork`] for who may fork.
    pub fn begin() -> Result<Self, Error> {
        let step = Step::Clone;
        forbid_inspection().at(step, || "prctl PR_SET_DUMPABLE")?;
        let (ours, theirs) = seqpacket::pair().at(step, || "socketpair")?;
        match fork::fork()? {
            Forked::InChild => fork::run_child(|| {
                signals::reset();
                let _ = rustix::thread::set_name(c"coracle-standin");
                if close_all_but(&[theirs.as_fd()]).is_ok() {
                    // Nothing is ever said: this returns when the other end is closed.
                    let _ = hear_parent(theirs.as_fd());
                }
                0
            }),
            Forked::Parent(child) => Ok(Self {
                pid: child.pid,
                pidfd: child.pidfd,
                _lifeline: ours,
            }),
        }
    }

    /// Its number in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        kill_and_reap(self.pidfd.as_fd());
    }
}
