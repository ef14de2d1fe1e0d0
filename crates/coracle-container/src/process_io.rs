//! What becomes descriptors 0, 1 and 2 of a process in a container.

use std::os::fd::OwnedFd;

/// Three descriptors: pipes, files or `/dev/null`.
#[derive(Debug)]
pub struct Stdio {
    /// Becomes 0.
    pub stdin: OwnedFd,
    /// Becomes 1.
    pub stdout: OwnedFd,
    /// Becomes 2.
    pub stderr: OwnedFd,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Characters a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Input and output of a process.
#[derive(Debug)]
pub enum ProcessIo {
    /// Descriptors of the caller.
    Stdio(Stdio),
    /// A terminal of the container's own devpts; its master is handed back.
    Console(Option<ConsoleSize>),
}
