//! What a pidfd tells of a process that this one cannot wait for.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::fork::last_errno;

/// Bits of the raw mask of PIDFD_GET_INFO (linux/pidfd.h).
const INFO_EXIT: u64 = 1 << 3;

/// The size-versioned structure of linux/pidfd.h as of Linux 6.15.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

/// `_IOWR(0xFF, 11, struct pidfd_info)`, with the size of the structure as used here.
const GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<Info>() as libc::c_ulong) << 16) | (0xFF << 8) | 11;

/// How a process of another parent ended, as wait(2) encodes it; `None` while it lives.
///
/// # Errors
/// `ENOTTY` or `EINVAL` below Linux 6.15, `ESRCH` when it was reaped before the kernel kept the code.
pub fn wait_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    let mut info = Info {
        mask: INFO_EXIT,
        ..Info::default()
    };
    // SAFETY: the number carries the structure's size, and `info` is that structure, writable.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    if result != 0 {
        return Err(last_errno());
    }
    Ok((info.mask & INFO_EXIT != 0).then_some(info.exit_code))
}
