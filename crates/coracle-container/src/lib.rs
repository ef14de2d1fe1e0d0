//! The OCI runtime: namespaces, mounts, cgroups, seccomp, capabilities, init and exec.
//!
//! Owns: everything that turns an OCI runtime specification into a process, in the calling process's own
//! child: [`create`] forks, the child sets everything up and waits, [`Init::start`] lets it become the
//! program. No helper program is executed, and no mount of a container is ever visible on the host: mounts
//! are made detached, handed to the child as descriptors and attached in its own mount namespace.
//!
//! Never: tokio, network configuration, images, policy. What a container may do stands in its
//! specification; this crate applies it or fails with the step that failed.
//!
//! **Invariant:** the calling process has one thread that allocates (`coracle_sys::fork` checks) and is
//! not dumpable while a child joins namespaces (class CVE-2016-9962).
//! **Invariant:** a path inside a container is resolved by openat2(2) with RESOLVE_IN_ROOT and used by
//! descriptor; what is written below /proc is written through a descriptor that was seen to be procfs.
//!
//! On disk only what a caller asks [`seccomp::cache_in`] for: `<directory>/<hash>.bpf` (0600 in a 0700
//! directory), profile and compiled program, written beside and renamed by any process, never locked, free
//! to be deleted at any time; a reboot may clear it. In the kernel it makes cgroups (below the path of the specification, in every
//! hierarchy) and, on request, pins of namespaces; both are the caller's to remove.

pub mod apparmor;
pub mod cgroup;
pub mod console;
pub mod hooks;
pub mod namespace;
pub mod pod_init;
pub mod seccomp;

mod capabilities;
mod channel;
mod create;
mod devices;
mod error;
mod exec;
mod filesystem;
mod init;
mod masks;
mod mounts;
mod paths;
mod process;
mod process_io;
mod procfs;
mod program;
#[doc(hidden)]
pub mod rootfs;
mod spawn;
mod stand_in;
mod step;

pub use create::{CreateRequest, Init, create};
pub use error::{CommandProblem, Error};
pub use exec::{ContainerProcess, ExecProcess, ExecTree, exec};
pub use process_io::{ConsoleSize, ProcessIo, Stdio};
pub use rootfs::RootfsSource;
pub use stand_in::StandIn;
pub use step::Step;
