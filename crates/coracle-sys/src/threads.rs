//! Threads that may live beside a fork, because they make system calls only.
//!
//! The entry is a plain function on state that lives for ever: it must not allocate, lock, print or
//! panic, since a fork may copy the process at any of its instructions. Signals are blocked in it.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Stack of such a thread: it holds buffers elsewhere and calls little.
const STACK: usize = 64 * 1024;

/// A running syscall-only thread.
#[derive(Debug)]
pub struct SyscallThread {
    thread: libc::pthread_t,
}

impl SyscallThread {
    /// Waits until its function has returned.
    pub fn join(self) {
        // SAFETY: the thread is joinable and joined once, as `self` is consumed.
        unsafe { libc::pthread_join(self.thread, std::ptr::null_mut()) };
        COUNT.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many were started and not joined.
#[must_use]
pub fn count() -> usize {
    COUNT.load(Ordering::SeqCst)
}

/// The child of a fork has none of them.
pub(crate) fn forget_in_child() {
    COUNT.store(0, Ordering::SeqCst);
}

struct Start<T: Sync + 'static> {
    entry: fn(&'static T),
    state: &'static T,
}

extern "C" fn run<T: Sync + 'static>(argument: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `start` leaked exactly this value for this thread; it is never freed, so that the thread
    // does not touch the allocator.
    let start = unsafe { &*argument.cast::<Start<T>>() };
    (start.entry)(start.state);
    std::ptr::null_mut()
}

/// Starts `entry(state)` on a small stack with all signals blocked. A few bytes stay allocated for ever.
///
/// # Errors
/// What pthread_create(3) says, mostly `EAGAIN`.
pub fn start<T: Sync + 'static>(entry: fn(&'static T), state: &'static T) -> io::Result<SyscallThread> {
    let argument = Box::into_raw(Box::new(Start { entry, state }));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut thread: libc::pthread_t = 0;
    COUNT.fetch_add(1, Ordering::SeqCst);
    // SAFETY: attributes and signal sets are initialised by the calls made for that before they are read;
    // `argument` is leaked on success, so it outlives the thread, and `run` takes it as what it is.
    let result = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
        let result = libc::pthread_create(&raw mut thread, attributes.as_ptr(), run::<T>, argument.cast());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        result
    };
    if result == 0 {
        return Ok(SyscallThread { thread });
    }
    COUNT.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: no thread was made, so the box is still ours alone.
    drop(unsafe { Box::from_raw(argument) });
    Err(io::Error::from_raw_os_error(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_syscall_thread_runs_and_is_joined() {
        static DONE: AtomicBool = AtomicBool::new(false);
        let thread = start(|done: &AtomicBool| done.store(true, Ordering::SeqCst), &DONE).unwrap();
        thread.join();
        assert!(DONE.load(Ordering::SeqCst));
    }
}
