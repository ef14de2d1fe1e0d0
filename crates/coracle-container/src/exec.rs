//! A further process in a running container, under the same restrictions as its init.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coracle_types::ExecId;
use oci_spec::runtime::{Process, Spec};
use rustix::process::Pid;

use crate::cgroup::{Cgroup, ExecCgroup};
use crate::error::Error;
use crate::process_io::ProcessIo;

/// The container in which a process is wanted.
#[derive(Debug, Clone, Copy)]
pub struct ContainerProcess<'a> {
    /// Its init.
    pub pid: Pid,
    /// Descriptor of its init.
    pub pidfd: BorrowedFd<'a>,
    /// What it was made of.
    pub spec: &'a Spec,
    /// Where it lives.
    pub cgroup: &'a Cgroup,
}

/// Whether the process and its descendants can be killed apart from the container.
#[derive(Debug, Clone)]
pub enum ExecTree {
    /// It lives among the container's other processes.
    Shared,
    /// It gets a cgroup of its own below the container's, which the caller removes after its end.
    Own(ExecId),
}

/// A process that was executed.
#[derive(Debug)]
pub struct ExecProcess {
    pid: Pid,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    tree: Option<ExecCgroup>,
    warnings: Vec<String>,
}

/// Executes `process` in a container and returns when its program runs.
///
/// # Errors
/// [`Error::Command`] when the program cannot be executed, else the step that failed.
pub fn exec(
    target: &ContainerProcess<'_>,
    process: &Process,
    io: ProcessIo,
    tree: ExecTree,
) -> Result<ExecProcess, Error> {
    let _ = (target, process, io, tree);
    Err(Error::unsupported("process", "", "not yet"))
}

impl ExecProcess {
    /// Its number in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its descriptor.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// What could not be applied and was gone on without.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Kills it and, with [`ExecTree::Own`], whatever descends from it.
    ///
    /// # Errors
    /// When the cgroup cannot be killed or emptied.
    pub fn kill_tree(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Removes the cgroup of [`ExecTree::Own`] after killing what is left in it.
    ///
    /// # Errors
    /// When a process in it does not die.
    pub fn remove(self) -> Result<(), Error> {
        Ok(())
    }
}
