//! New network namespaces: of the calling thread, or owned by another user namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and only it, a new network namespace that the process's user
/// namespace owns, and returns it.
///
/// The thread stays in it: call this on a thread that ends soon and is not of a pool.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ENOSPC at `user.max_net_namespaces`, or that of opening /proc.
pub fn unshare_network() -> io::Result<OwnedFd> {
    // SAFETY: unshare is unsafe for the sake of CLONE_FILES only; NEWNET leaves the descriptor
    // table shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Makes a network namespace that `user` (a user namespace) owns, and returns it.
///
/// A process with threads may not join a user namespace, so a child does it that shares nothing
/// with us and lives only as long as this call.
///
/// # Errors
/// As the kernel gives for clone(2), setns(2) and unshare(2).
pub fn network_owned_by(user: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (answer_read, answer_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (hold_read, hold_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (user_raw, answer_raw) = (user.as_raw_fd(), answer_write.as_raw_fd());
    let (hold_read_raw, hold_write_raw) = (hold_read.as_raw_fd(), hold_write.as_raw_fd());

    // SAFETY: clone with no flags and no stack is fork(2) without an exit signal and without
    // glibc's handlers. The child runs `hold_network`, which makes system calls on integers taken
    // above and never returns; it touches no memory that another thread may have locked.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    if pid == 0 {
        hold_network(user_raw, answer_raw, hold_read_raw, hold_write_raw);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    drop((answer_write, hold_read));

    let mut answer = [0_u8; 4];
    let result = match rustix::io::retry_on_intr(|| rustix::io::read(&answer_read, &mut answer)) {
        Ok(4) => match i32::from_ne_bytes(answer) {
            0 => File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from),
            errno => Err(io::Error::from_raw_os_error(errno)),
        },
        Ok(_) => Err(io::Error::other(
            "the child that makes the network namespace died",
        )),
        Err(errno) => Err(errno.into()),
    };
    drop(hold_write);
    reap(pid);
    result
}

fn reap(pid: libc::c_long) {
    let mut status = 0;
    loop {
        // SAFETY: waits for the child made above, which nobody else may reap: it sends no signal
        // and is waited for only with __WALL. `status` outlives the call.
        let reaped = unsafe { libc::syscall(libc::SYS_wait4, pid, &raw mut status, libc::__WALL, 0) };
        if reaped >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

fn hold_network(user: i32, answer: i32, hold_read: i32, hold_write: i32) -> ! {
    // SAFETY: only system calls on valid integers and on this stack frame; no allocation and no
    // lock. `_exit` by system call runs no handler of the parent.
    unsafe {
        let mut errno = 0_i32;
        if libc::syscall(libc::SYS_setns, user, libc::CLONE_NEWUSER) < 0
            || libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) < 0
        {
            errno = *libc::__errno_location();
        }
        libc::syscall(libc::SYS_close, hold_write);
        let bytes = errno.to_ne_bytes();
        libc::syscall(libc::SYS_write, answer, bytes.as_ptr(), bytes.len());
        // Ends when the parent closes its end, or dies.
        let mut byte = 0_u8;
        libc::syscall(libc::SYS_read, hold_read, &raw mut byte, 1_usize);
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn root_makes_a_namespace_that_another_user_namespace_owns() {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap();
        // Our own user namespace cannot be joined anew: the child's errno comes back.
        let user = File::open("/proc/self/ns/user").unwrap();
        let error = network_owned_by(user.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));

        let mut child = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let path = format!("/proc/{}/ns/user", child.id());
        let initial = std::fs::read_link("/proc/self/ns/user").unwrap();
        while std::fs::read_link(&path).unwrap() == initial {
            std::thread::yield_now();
        }
        let other = File::open(&path).unwrap();
        let made = network_owned_by(other.as_fd());
        child.kill().unwrap();
        child.wait().unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_ne!(File::from(made.unwrap()).metadata().unwrap().ino(), own.ino());
    }

    #[test]
    fn root_leaves_the_other_threads_where_they_are() {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        std::thread::spawn(|| unshare_network().unwrap()).join().unwrap();
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
    }
}
