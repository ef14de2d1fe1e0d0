//! How processes end: waited for by pidfd, told apart by who may ask the kernel.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use coracle_types::time::UnixNanos;
use rustix::process::{WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;

use crate::deposits::{Deposits, Owner};
use crate::readable::readable;

/// What is reported when nothing can be learned: the parent reaped the process and the kernel is older than
/// 6.15, which keeps the code with the pidfd.
pub(crate) const UNKNOWN: i32 = 255;

/// End of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// 0 to 255, 128 + N after signal N.
    pub(crate) code: i32,
    pub(crate) at: UnixNanos,
    /// Nobody can tell the code.
    pub(crate) lost: bool,
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub(crate) struct Awaited(AsyncFd<OwnedFd>);

impl Awaited {
    /// Needs the runtime's context.
    pub(crate) fn new(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self(readable(pidfd)?))
    }

    /// Returns when the process has ended (a pidfd is readable then, pidfd_open(2)); it may be asked again.
    pub(crate) async fn ended(&self) {
        // It fails only when the runtime leaves, and then this task does too.
        if let Ok(mut ready) = self.0.readable().await {
            ready.retain_ready();
        }
    }

    /// After [`Awaited::ended`] of a child: its end, which this takes. `None` when it is another's child.
    pub(crate) fn reap(&self) -> Option<Ended> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.0.get_ref().as_fd()), options).ok()??;
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => UNKNOWN,
        };
        Some(Ended {
            code,
            at: UnixNanos::now(),
            lost: false,
        })
    }

    /// After [`Awaited::ended`]: its end as its parent, the keeper or the kernel tells it.
    pub(crate) fn learn(&self, deposits: &Deposits, owner: &Owner) -> Ended {
        if let Some(ended) = self.reap() {
            return ended;
        }
        if let Some(exit) = deposits.exit_of(owner) {
            return Ended {
                code: exit.code,
                at: exit.at,
                lost: false,
            };
        }
        let status = coracle_sys::pidfd::wait_status(self.0.get_ref().as_fd())
            .ok()
            .flatten();
        if status.is_none() {
            tracing::warn!(
                ?owner,
                "its exit code is not known: keeper and shim were lost together"
            );
        }
        Ended {
            code: status.map_or(UNKNOWN, shell_code),
            at: UnixNanos::now(),
            lost: status.is_none(),
        }
    }
}

/// From the encoding of wait(2).
fn shell_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_read_as_a_shell_reads_them() {
        assert_eq!(shell_code(0), 0);
        assert_eq!(shell_code(7 << 8), 7);
        assert_eq!(shell_code(9), 137);
        assert_eq!(shell_code(11 | 0x80), 139);
    }
}
