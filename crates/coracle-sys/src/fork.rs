//! fork(2) and clone3(2), refused while a thread that may hold a lock is alive.
//!
//! A child of a threaded process may only make async-signal-safe calls; ours allocates and formats. So
//! both functions count the threads of the process first: there may be the calling one and those that
//! [`crate::threads`] started, which make system calls only and hold no lock.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::namespaces::Namespaces;
use crate::threads;

/// linux/sched.h; libc has it in a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Why no process was made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// Threads are alive that may hold locks which the child would wait for for ever.
    #[error(
        "fork with {found} threads, {allowed} of which may live beside a fork; start threads with coracle_sys::threads only"
    )]
    Threads {
        /// Threads of this process.
        found: usize,
        /// The calling thread and the syscall-only ones.
        allowed: usize,
    },
    /// The kernel refused.
    #[error("{call}: {source}")]
    Kernel {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: Errno,
    },
}

impl ForkError {
    /// The kernel's answer, when it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Threads { .. } => None,
            Self::Kernel { source, .. } => Some(*source),
        }
    }
}

/// A process just made.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's PID namespace.
    pub pid: Pid,
    /// Its descriptor, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Which of the two processes the caller is.
#[derive(Debug)]
pub enum Forked {
    /// The one that called.
    Parent(Child),
    /// The new one. Its only thread is the caller's copy; it must end by exec or [`exit`].
    InChild,
}

/// What the child of [`clone3`] differs in.
#[derive(Debug, Default)]
pub struct CloneRequest<'a> {
    /// Namespaces made for it.
    pub namespaces: Namespaces,
    /// The cgroup v2 directory in which it begins (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child becomes one of the caller's parent (CLONE_PARENT).
    pub sibling: bool,
}

/// A copy of the process, without a change of namespace or cgroup.
pub fn fork() -> Result<Forked, ForkError> {
    clone3(&CloneRequest::default())
}

/// A copy of the process by clone3(2), always with a pidfd.
///
/// # Errors
/// `EBUSY` when the cgroup has controllers enabled for children, `EINVAL` when namespaces contradict.
pub fn clone3(request: &CloneRequest<'_>) -> Result<Forked, ForkError> {
    may_fork()?;
    let mut pidfd: libc::c_int = -1;
    let mut flags = request.namespaces.bits() | libc::CLONE_PIDFD as u64;
    if request.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    let mut cgroup = 0;
    if let Some(fd) = request.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = fd.as_raw_fd() as u64;
    }
    let mut args = libc::clone_args {
        flags,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    if request.sibling {
        // CLONE_PARENT takes the exit signal of the caller and refuses another.
        args.exit_signal = 0;
    }
    // SAFETY: `args` is a whole clone_args of the size given, `pidfd` outlives the call; without CLONE_VM
    // the child has its own copy of memory, and may_fork saw that no other thread can hold a lock in it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        -1 => Err(ForkError::Kernel {
            call: "clone3",
            source: last_errno(),
        }),
        0 => {
            threads::forget_in_child();
            Ok(Forked::InChild)
        }
        raw => {
            let pid = i32::try_from(raw).ok().and_then(Pid::from_raw);
            let pid = pid.expect("clone3 returns a positive process number to the parent");
            // SAFETY: CLONE_PIDFD succeeded, so the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(Child { pid, pidfd }))
        }
    }
}

/// Runs `body` in a child and leaves with the code it returns; a panic there ends with 70 (EX_SOFTWARE)
/// instead of going on in the parent's code.
pub fn run_child(body: impl FnOnce() -> i32) -> ! {
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(70);
    exit(code)
}

/// Ends the process at once: no destructor, no atexit handler, which belong to the parent.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Whether every thread of the process is one that may live beside a fork.
///
/// # Errors
/// [`ForkError::Threads`] when not; a thread that is just leaving is waited for, 100 ms at most.
pub fn may_fork() -> Result<(), ForkError> {
    let mut waited = 0;
    loop {
        let allowed = 1 + threads::count();
        let found = thread_count()?;
        if found <= allowed {
            return Ok(());
        }
        if waited == 100 {
            return Err(ForkError::Threads { found, allowed });
        }
        waited += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Threads of this process: procfs counts them as links of the task directory, beside `.` and `..`.
fn thread_count() -> Result<usize, ForkError> {
    let task = rustix::fs::stat("/proc/self/task").map_err(|source| ForkError::Kernel {
        call: "stat /proc/self/task",
        source,
    })?;
    Ok(usize::try_from(task.st_nlink)
        .unwrap_or(usize::MAX)
        .saturating_sub(2))
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_beside_an_ordinary_thread_is_refused() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(matches!(fork(), Err(ForkError::Threads { found, .. }) if found >= 2));
        drop(stop);
        let _ = other.join();
    }
}
