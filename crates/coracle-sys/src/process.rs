//! Attributes of the process as a whole: dumpable flag, descriptors left open, file mode mask.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::fork::last_errno;

/// Nobody without CAP_SYS_PTRACE over our user namespace may trace this process or read its memory,
/// environment and descriptors; children inherit that until they exec (class CVE-2016-9962).
pub fn forbid_inspection() -> Result<(), Errno> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// What becomes of the descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseRange {
    /// Closed at once.
    Now,
    /// Closed by the next exec, so that errors can still be reported (Linux 5.11).
    OnExec,
}

/// Closes every descriptor from `first` on; those below stay.
///
/// # Errors
/// `EINVAL` for [`CloseRange::OnExec`] below Linux 5.11, `ENOSYS` below 5.9.
pub fn close_from(first: u32, when: CloseRange) -> Result<(), Errno> {
    let flags = match when {
        CloseRange::Now => 0,
        CloseRange::OnExec => libc::CLOSE_RANGE_CLOEXEC,
    };
    // SAFETY: the call closes descriptors only; a caller that passes `Now` has no owner of them left that
    // would touch them, as its next act is exec, and `OnExec` leaves them open until then.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Closes every descriptor from 3 on except `kept`, in a child that must not hold what its parent had open.
///
/// # Errors
/// `ENOSYS` below Linux 5.9.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept
        .into_iter()
        .filter(|fd| *fd >= 3)
        .chain(std::iter::once(u32::MAX))
    {
        if fd > first {
            // SAFETY: closes what the caller does not keep; a child that calls this ends by exec or _exit,
            // so that no owner in the memory it was copied from is dropped in it.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            if result != 0 {
                return Err(last_errno());
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// The mask of modes of new files; returns the one before.
pub fn set_umask(mask: u32) -> u32 {
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask)).bits()
}
