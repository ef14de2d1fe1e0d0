//! Every unsafe line of the project: one family of system calls a file.
//!
//! Owns: the calls that `rustix` does not offer as safe functions (clone3, mount_setattr, bpf, seccomp,
//! PIDFD_GET_INFO, threads that may live beside a fork), each behind a function that is safe to call.
//! Never: policy. Nothing here decides what a container may do, and nothing here keeps state except the
//! number of syscall-only threads and the step
//! at which a test wants the process to die. Keeps nothing on disk.

pub mod bpf;
pub mod exec;
pub mod fork;
pub mod ids;
pub mod memfd;
pub mod memory;
pub mod mount_attr;
pub mod namespaces;
pub mod netdev;
pub mod netlink;
pub mod netns;
pub mod pidfd;
pub mod probe;
pub mod process;
pub mod programs;
pub mod replace;
pub mod seccomp;
pub mod seqpacket;
pub mod shared;
pub mod signalfd;
pub mod signals;
pub mod steps;
pub mod threads;
pub mod title;
pub mod write_out;
