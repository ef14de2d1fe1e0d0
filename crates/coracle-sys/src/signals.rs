//! Signal dispositions and mask of a child before it becomes another program.

/// Every signal gets its default action and none is blocked, whatever the runtime of the parent did
/// (Rust ignores SIGPIPE, which a program would inherit).
pub fn reset() {
    // Straight to the kernel: the library keeps 32 and 33 for itself, and a parent may have left them ignored.
    let default = [0_u64; 4];
    for signal in 1..=64_i64 {
        if signal == i64::from(libc::SIGKILL) || signal == i64::from(libc::SIGSTOP) {
            continue;
        }
        // SAFETY: a structure of zeros (handler, flags, restorer, mask) is the default action, which runs
        // no code of ours; the set of the kernel is 8 bytes.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                8,
            )
        };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised before it is read.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Blocks SIGCHLD, SIGTERM and SIGINT, for a program that waits for them (the mask survives exec).
pub fn block_for_init() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised before it is filled and read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}
