//! Whether the kernel knows a system call or a flag: asked with arguments that can have no effect.
//!
//! Each call is given a descriptor that is not open, or only asks; a kernel that knows what is asked says
//! so by complaining about the descriptor (EBADF) and not about the flag (EINVAL) or the call (ENOSYS).

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::fork::last_errno;

/// A descriptor that no process has: beyond every limit, yet an int.
const NOT_OPEN: i32 = i32::MAX;
/// linux/sched.h; libc has it in a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// linux/mount.h (5.12).
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// linux/seccomp.h (4.14).
const SECCOMP_GET_ACTION_AVAIL: libc::c_long = 2;
/// linux/timex.h: nobody has set the clock right.
const STA_UNSYNC: i32 = 0x0040;

/// `struct clone_args` with the cgroup (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pointers: [u64; 3],
    exit_signal: u64,
    stack: [u64; 3],
    set_tid: [u64; 2],
    cgroup: u64,
}

/// `struct mount_attr` (Linux 5.12).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// clone3(2) with CLONE_INTO_CGROUP (Linux 5.7).
#[must_use]
pub fn clone_into_cgroup() -> bool {
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: NOT_OPEN as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a whole clone_args of the given size. No child can come of it: the kernel looks the
    // cgroup's descriptor up before it makes a process, and it is not open; a kernel without the flag refuses.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    result < 0 && last_errno() == Errno::BADF
}

/// mount_setattr(2) with MOUNT_ATTR_IDMAP (Linux 5.12).
#[must_use]
pub fn idmapped_mounts() -> bool {
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: NOT_OPEN as u64,
        ..MountAttr::default()
    };
    // SAFETY: the path is an empty, terminated string and `attr` a whole mount_attr of the given size; the
    // user namespace's descriptor is looked up before any mount is changed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    result < 0 && last_errno() == Errno::BADF
}

/// pidfd_open(2) (Linux 5.3).
#[must_use]
pub fn pidfd() -> bool {
    pidfd_open(getpid(), PidfdFlags::empty()).is_ok()
}

/// PIDFD_GET_INFO with the exit code (Linux 6.15).
#[must_use]
pub fn pidfd_exit_code() -> bool {
    pidfd_open(getpid(), PidfdFlags::empty()).is_ok_and(|own| crate::pidfd::wait_status(own.as_fd()).is_ok())
}

/// A seccomp filter may ask another process (SECCOMP_RET_USER_NOTIF, Linux 5.0).
#[must_use]
pub fn seccomp_notify() -> bool {
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the operation reads the number that the pointer leads to, and nothing else.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    result == 0
}

/// Whether something keeps the clock right (adjtimex(2), which is told nothing here).
///
/// # Errors
/// When the call is filtered away.
pub fn clock_is_kept() -> Result<bool, Errno> {
    // SAFETY: a timex of zeros is valid and asks only.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is a whole, writable timex whose `modes` is 0: nothing is set.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(last_errno());
    }
    Ok(timex.status & STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_that_is_supported_has_what_came_before_it() {
        // The least kernel is 5.14.
        assert!(clone_into_cgroup() && idmapped_mounts() && pidfd() && seccomp_notify());
        assert!(clock_is_kept().is_ok());
    }
}
