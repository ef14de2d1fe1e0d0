//! Forking a shim: what the child sheds of the keeper before the shim's code runs.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use coracle_sys::fork::{self, Forked};
use coracle_sys::process::{self, CloseRange};
use coracle_sys::{signalfd, title};
use coracle_types::PodSandboxId;
use rustix::fs::Mode;
use rustix::net::{SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};

use crate::error::Error;
use crate::socket;

/// What a shim is born with.
#[derive(Debug)]
pub struct ShimStart {
    /// Whose shim it is.
    pub pod: PodSandboxId,
    /// `<state>/pods/<id>`: its socket and its state file.
    pub state_dir: PathBuf,
    /// Where its keeper listens; `None` when another program started it as a shim of its own.
    pub keeper: Option<PathBuf>,
    /// What it is to log: a filter that means nothing to the keeper; empty from a daemon that knows none.
    pub log: String,
    /// Its listening stream socket, non-blocking, bound to `<state_dir>/shim.sock`.
    pub listener: OwnedFd,
}

/// A shim's code; what it returns is the process's exit code.
pub(crate) type ShimEntry = fn(ShimStart) -> i32;

/// What every shim of this keeper gets.
pub(crate) struct Nursery {
    pub(crate) keeper: PathBuf,
    pub(crate) entry: ShimEntry,
    /// Soft limit of open files as the daemon had it: the keeper's own is raised.
    pub(crate) open_files: Rlimit,
}

impl Nursery {
    /// Binds the shim's socket, forks, and returns the child's pid. In the child this does not return.
    pub(crate) fn spawn(&self, pod: &PodSandboxId, state_dir: &Path, log: String) -> Result<i32, Error> {
        let path = state_dir.join("shim.sock");
        let listener = socket::listen(&path, SocketType::STREAM, SocketFlags::NONBLOCK)
            .map_err(Error::path("bind and listen on", &path))?;
        match fork::fork().map_err(Error::fork("fork a shim"))? {
            Forked::Parent(child) => Ok(child.pid.as_raw_nonzero().get()),
            Forked::InChild => {
                let start = ShimStart {
                    pod: pod.clone(),
                    state_dir: state_dir.into(),
                    keeper: Some(self.keeper.clone()),
                    log,
                    listener,
                };
                self.become_shim(start)
            }
        }
    }

    /// Never returns and never unwinds: the keeper's values in this copy of its memory own descriptor numbers
    /// that mean other files, or nothing, from here on.
    fn become_shim(&self, start: ShimStart) -> ! {
        let ShimStart {
            pod,
            state_dir,
            keeper,
            log,
            listener,
        } = start;
        fork::run_child(move || match self.shed(&pod, listener) {
            Ok(listener) => (self.entry)(ShimStart {
                pod,
                state_dir,
                keeper,
                log,
                listener,
            }),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "shim of pod {pod}: {error}");
                1
            }
        })
    }

    /// Gives up all that is the keeper's; the listener comes back under another number.
    fn shed(&self, pod: &PodSandboxId, listener: OwnedFd) -> Result<OwnedFd, Error> {
        // The one descriptor to keep passes through standard input, which is /dev/null anyway.
        rustix::stdio::dup2_stdin(&listener).map_err(Error::system("keep the listening socket"))?;
        std::mem::forget(listener);
        process::close_from(3, CloseRange::Now).map_err(Error::system("close the keeper's files"))?;
        let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
            .map_err(Error::system("keep the listening socket"))?;
        let null = File::open("/dev/null").map_err(Error::path("open", "/dev/null"))?;
        rustix::stdio::dup2_stdin(&null).map_err(Error::system("close standard input"))?;
        signalfd::unblock_all().map_err(Error::system("unblock signals"))?;
        rustix::process::setsid().map_err(Error::system("setsid"))?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::process::setrlimit(Resource::Nofile, self.open_files)
            .map_err(Error::system("restore the limit of open files"))?;
        set_name(c"coracle-shim", &format!("coracle-shim {}", pod.short()));
        Ok(listener)
    }
}

/// Names the process for `ps`: a wrong name is not worth a failure.
pub(crate) fn set_name(command: &CStr, title: &str) {
    let _ = title::set(title);
    let _ = rustix::thread::set_name(command);
}
