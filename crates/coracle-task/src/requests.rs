//! What a shim is asked and what it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use coracle_types::ContainerId;
use coracle_types::container::Exit;
use coracle_types::security::UserNamespace;
use oci_spec::runtime::Process;

/// Namespaces to make and pin for a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "one a kind of namespace, always named"
)]
pub struct NamespaceRequest {
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace.
    pub uts: bool,
    /// A PID namespace, with an init.
    pub pid: bool,
    /// A network namespace; only with `user`, else the network makes it.
    pub net: bool,
    /// A user namespace; made first, it owns the others.
    pub user: Option<UserNamespace>,
}

/// A sandbox to make.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    /// What to make.
    pub namespaces: NamespaceRequest,
    /// Directory of the pins `ipc`, `uts`, `pid`, `user`; it exists.
    pub pins: PathBuf,
    /// Where the network namespace is, or with `namespaces.net` is to be, pinned.
    pub netns: Option<PathBuf>,
    /// Host name in the UTS namespace; empty leaves the host's.
    pub hostname: String,
    /// Kernel parameters of the namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Absolute cgroup of the pod's init, when there is one.
    pub cgroup: String,
    /// As whom the pod's init runs.
    pub user: (u32, u32),
    /// Directory and bytes of the pod's shared memory.
    pub shm: Option<(PathBuf, u64)>,
}

/// A sandbox that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxCreated {
    /// The pod's init, when its PID namespace is the pod's.
    pub init: Option<u32>,
}

/// A container to make.
#[derive(Debug, Clone)]
pub struct TaskCreate {
    /// Its id.
    pub id: ContainerId,
    /// Directory of its `config.json`.
    pub bundle: PathBuf,
    /// Directories of its image's layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Upper and work directory of the overlay.
    pub writable: (PathBuf, PathBuf),
    /// Whether layers and writable layer appear by the mapping of the pod's user namespace.
    pub mapped: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// A terminal.
    pub terminal: bool,
    /// Absolute path of its CRI log.
    pub log: Option<PathBuf>,
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillScope {
    /// The container's first process.
    Init,
    /// All its processes.
    All,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Made, not started.
    Created,
    /// Its first process lives.
    Running,
    /// Its first process has ended.
    Exited(Exit),
}

/// A process to run in a container, and how much of what it prints to keep.
#[derive(Debug, Clone)]
pub struct ExecSync {
    /// OCI runtime specification, `process`.
    pub process: Process,
    /// After which its whole process tree is killed.
    pub timeout: Option<Duration>,
    /// Bytes a stream.
    pub limit: usize,
}

/// What a process in a container left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote to standard output, as far as it was kept.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, as far as it was kept.
    pub stderr: Vec<u8>,
    /// 0..255; 128 + N after signal N.
    pub code: i32,
}

/// What a container used, in the kernel's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes of memory charged.
    pub memory_usage: u64,
    /// Without inactive file pages, as the kubelet counts the working set.
    pub memory_working_set: u64,
    /// Anonymous memory in bytes.
    pub memory_rss: u64,
    /// Bytes until the limit; `None` without one.
    pub memory_limit: Option<u64>,
    /// Swap in bytes.
    pub swap_usage: u64,
    /// Minor and major page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub pids: u64,
}
