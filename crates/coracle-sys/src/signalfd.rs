//! Signals that are read instead of handled: signalfd(2), children seen before they are reaped, any number
//! sent through a pidfd.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A descriptor that becomes readable when one of its signals is pending.
///
/// The signals stay blocked in the thread that opened it until [`unblock_all`].
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` in the calling thread and opens a descriptor that reads them.
    ///
    /// # Errors
    /// What sigprocmask(2) or signalfd(2) answer, EINVAL for a number that is no signal.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let set = signal_set(signals)?;
        // SAFETY: `set` is an initialised signal set; no old set is asked for.
        let blocked = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `set` is an initialised signal set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd(2) just returned this descriptor and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes one pending signal; `None` when there is none.
    ///
    /// # Errors
    /// What read(2) answers.
    pub fn take(&self) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is `size` bytes long and lives over the call.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        match usize::try_from(read) {
            Ok(count) if count == size => {
                // SAFETY: the kernel filled the whole structure.
                let info = unsafe { info.assume_init() };
                Ok(i32::try_from(info.ssi_signo).ok())
            }
            Ok(_) => Ok(None),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error),
            },
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn signal_set(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialised above; a bad number is answered with -1.
        if unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: sigemptyset(3) initialised it.
    Ok(unsafe { set.assume_init() })
}

/// Unblocks every signal in the calling thread, dispositions stay.
///
/// # Errors
/// What sigprocmask(2) answers.
pub fn unblock_all() -> io::Result<()> {
    let set = signal_set(&[])?;
    // SAFETY: `set` is an initialised signal set; no old set is asked for.
    let done = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The pid of a child that has ended and is not reaped yet; it stays so. `None` when there is none.
///
/// # Errors
/// What waitid(2) answers but for ECHILD.
pub fn ended_child() -> io::Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the structure lives over the call; P_ALL takes no id.
    if unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) } != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: it was zeroed, and waitid(2) filled it when a child has ended; `si_pid` is then set and
    // else still 0 (waitid(2), "WNOHANG").
    let pid = unsafe { info.assume_init().si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Sends a signal by number, real-time ones too, to the process behind a pidfd.
///
/// # Errors
/// What pidfd_send_signal(2) answers: ESRCH once the process was reaped.
pub fn send_to_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the borrow; no siginfo is passed; flags are 0.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_none_is_refused() {
        assert!(signal_set(&[1000]).is_err());
    }

    #[test]
    fn a_blocked_signal_is_read() {
        // A thread of its own: the mask is per thread and the test runner's must stay as it is.
        std::thread::spawn(|| {
            let fd = SignalFd::new(&[libc::SIGUSR2]).expect("signalfd");
            assert_eq!(fd.take().expect("read"), None);
            // SAFETY: the thread sends to itself, where the signal is blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
            assert_eq!(fd.take().expect("read"), Some(libc::SIGUSR2));
            assert_eq!(fd.take().expect("read"), None);
        })
        .join()
        .expect("the thread ends");
    }
}
