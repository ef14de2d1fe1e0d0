//! Making a container: its init waits, set up whole, until it is started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use coracle_types::ContainerId;
use coracle_types::steps::Step;
use oci_spec::runtime::Spec;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::process_io::ProcessIo;
use crate::rootfs::RootfsSource;

/// A container to make.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its name, for hooks.
    pub id: &'a ContainerId,
    /// What it is. `linux.cgroupsPath` is absolute.
    pub spec: &'a Spec,
    /// Its directory on the host, for hooks and relative paths of the specification.
    pub bundle: &'a Path,
    /// Its root file system; `spec.root.path` is not looked at.
    pub rootfs: RootfsSource,
    /// Its descriptors 0, 1 and 2.
    pub io: ProcessIo,
}

/// The first process of a container.
#[derive(Debug)]
pub struct Init {
    pid: Pid,
    pidfd: OwnedFd,
    channel: Option<OwnedFd>,
    cgroup: Cgroup,
    console: Option<OwnedFd>,
    steps: Vec<Step>,
    warnings: Vec<String>,
}

/// Makes a container up to the point where only its start is missing.
///
/// # Errors
/// The first step that failed, in the caller or in the child; nothing is left behind then.
pub fn create(request: CreateRequest<'_>) -> Result<Init, Error> {
    let _ = request;
    Err(Error::unsupported("root", "", "not yet"))
}

impl Init {
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

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The master of its terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// What it took so far.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What could not be applied and was gone on without, in words; each is worth one log line.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The socket over which it is started; with it and [`Init::adopt`] another process can do that.
    #[must_use]
    pub fn start_channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// An init that another process made; without a channel it was started already.
    #[must_use]
    pub fn adopt(pid: Pid, pidfd: OwnedFd, cgroup: Cgroup, channel: Option<OwnedFd>) -> Self {
        Self {
            pid,
            pidfd,
            channel,
            cgroup,
            console: None,
            steps: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Lets it execute its program, and returns when it has.
    ///
    /// # Errors
    /// [`Error::Command`] when the program cannot be executed; the process has ended then.
    pub fn start(&mut self) -> Result<(), Error> {
        Err(Error::unsupported("root", "", "not yet"))
    }
}
