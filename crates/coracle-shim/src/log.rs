//! The CRI log of a container: a thread that only makes system calls copies its output into a file.
//!
//! A write to a slow or full disk blocks that thread and, once the pipe is full, the container that writes;
//! it blocks neither the shim's other calls nor the pod's other containers.

mod frame;
mod writer;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_store::regular::{self, Access};
use coracle_sys::threads::{self, SyscallThread};
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::readable::readable;
use writer::{Files, Slot};

/// How long an exit waits for a log that a disk does not take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a container prints to.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Reading end of standard output, or a terminal's master.
    pub(crate) stdout: OwnedFd,
    /// Reading end of standard error; a terminal has none.
    pub(crate) stderr: Option<OwnedFd>,
}

/// Slots of writers that have ended: their memory is used again, never freed (a thread may not free).
#[derive(Debug, Default)]
pub(crate) struct Pool(Vec<&'static Slot>);

/// A running log writer.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    slot: &'static Slot,
    answers: AsyncFd<OwnedFd>,
    thread: Option<SyscallThread>,
}

impl LogWriter {
    /// Opens the log at `path` and starts copying. Needs the runtime's context.
    pub(crate) fn start(pool: &mut Pool, path: &Path, sources: Sources) -> Result<Self, Error> {
        let log = open(path)?;
        let failed = |source: io::Error| Error::Log {
            operation: "start the writer of",
            path: path.into(),
            source,
        };
        for source in [Some(&sources.stdout), sources.stderr.as_ref()]
            .into_iter()
            .flatten()
        {
            set_nonblocking(source).map_err(failed)?;
        }
        let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let answer = event().map_err(|errno| failed(errno.into()))?;
        let answers = answer.try_clone().and_then(readable).map_err(failed)?;
        let slot = pool.0.pop().unwrap_or_else(|| Box::leak(Box::default()));
        slot.fill(Files {
            log,
            sources: [Some(sources.stdout), sources.stderr],
            command: event().map_err(|errno| failed(errno.into()))?,
            answer,
        });
        match threads::start(writer::run, slot) {
            Ok(thread) => Ok(Self {
                path: path.into(),
                slot,
                answers,
                thread: Some(thread),
            }),
            Err(source) => {
                slot.empty();
                pool.0.push(slot);
                Err(failed(source))
            }
        }
    }

    /// Where it writes.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of lines that the disk did not take.
    pub(crate) fn lost(&self) -> u64 {
        self.slot.lost()
    }

    /// Runs `use_them` with the descriptors it reads from.
    pub(crate) fn with_sources<T>(&self, use_them: impl FnOnce(&[Option<OwnedFd>; 2]) -> T) -> Option<T> {
        self.slot.with_files(|files| use_them(&files.sources))
    }

    /// Opens the file anew: whoever renamed it has all that was written before.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let log = open(&self.path)?;
        let failed = |source| Error::Log {
            operation: "reopen",
            path: self.path.clone(),
            source,
        };
        self.slot
            .with_files(|files| coracle_sys::replace::replace_descriptor(&files.log, log))
            .unwrap_or(Ok(()))
            .map_err(failed)
    }

    /// Returns when all that is in the pipes now is in the log, or the disk was waited for long enough.
    pub(crate) async fn drain(&self) {
        self.slot.command(writer::DRAIN);
        self.answered().await;
    }

    /// Drains, ends the thread and gives its memory back to the pool by [`LogWriter::recycle`].
    pub(crate) async fn close(&mut self) {
        self.slot.command(writer::QUIT);
        if !self.answered().await {
            // Stuck in a write: it stays counted, so that forks go on, and its slot stays in use.
            self.thread = None;
        }
        if let Some(thread) = self.thread.take() {
            thread.join();
            self.slot.empty();
        }
    }

    /// After [`LogWriter::close`].
    pub(crate) fn recycle(self, pool: &mut Pool) {
        if self.thread.is_none() && self.slot.is_empty() {
            pool.0.push(self.slot);
        }
    }

    async fn answered(&self) -> bool {
        let answer = async {
            loop {
                let Ok(mut ready) = self.answers.readable().await else {
                    return;
                };
                let mut count = [0_u8; 8];
                match ready.try_io(|answers| Ok(rustix::io::read(answers.get_ref(), &mut count)?)) {
                    Ok(_) => return,
                    Err(_would_block) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.is_ok()
    }
}

/// Whether a log can be written at `path`; it is made there.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    open(path).map(drop)
}

/// Opens a log for appending; it must be a regular file and no link.
fn open(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source: io::Error| Error::Log {
        operation: "open",
        path: path.into(),
        source,
    };
    regular::open(path, Access::Append)
        .map(OwnedFd::from)
        .map_err(failed)
}

fn set_nonblocking(source: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&source)?;
    Ok(rustix::fs::fcntl_setfl(&source, flags | OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests;
