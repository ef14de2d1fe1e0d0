//! The first process of a pod's PID namespace: reaps what loses its parent and leaves on SIGTERM.
//!
//! Compiled by the build script without a standard library, linked statically, a few KB. It is executed
//! with SIGCHLD, SIGTERM and SIGINT blocked, takes no arguments, opens nothing, allocates nothing. When it
//! leaves, the kernel kills the rest of the namespace.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;
/// A set of the three signals, as the kernel counts them: bit 0 is signal 1.
const WAITED: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
    pub const RT_SIGTIMEDWAIT: usize = 128;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGTIMEDWAIT: usize = 137;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "and $-16, %rsp", "call {run}", run = sym run, options(att_syntax));
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl {run}", run = sym run);

/// One system call with up to four arguments.
#[cfg(target_arch = "x86_64")]
fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the calls made here read or write only what the arguments point to, which lives over them;
    // the kernel changes rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// One system call with up to four arguments.
#[cfg(target_arch = "aarch64")]
fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the calls made here read or write only what the arguments point to, which lives over them.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d,
            options(nostack));
    }
    result
}

extern "C" fn run() -> ! {
    let set = WAITED;
    loop {
        // What ended before the first wait left a signal that is pending, or none that is lost: look first.
        while call(number::WAIT4, ANY_CHILD, 0, WNOHANG, 0) > 0 {}
        let signal = call(number::RT_SIGTIMEDWAIT, &raw const set as usize, 0, 0, size_of::<u64>());
        if signal == SIGTERM as isize || signal == SIGINT as isize {
            leave(0);
        }
    }
}

fn leave(code: usize) -> ! {
    loop {
        call(number::EXIT_GROUP, code, 0, 0, 0);
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    leave(70)
}
