//! A process whose output is captured, with a deadline for its whole tree (CRI ExecSync).

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use coracle_container::cgroup::Cgroup;
use coracle_container::{ExecProcess, ExecTree, ProcessIo, Stdio};
use coracle_types::{ContainerId, ExecId};
use oci_spec::runtime::Process;
use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::container::{Container, cgroup_path, exec_name};
use crate::error::Error;
use crate::exits::{Awaited, UNKNOWN};
use crate::pod::Pod;
use crate::readable::readable;
use crate::stdio;

/// Read at once and sent in one message.
const CHUNK: usize = 32 * 1024;

/// Output, or the end.
#[derive(Debug)]
pub(crate) enum Event {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    End { code: i32, dropped: [u64; 2] },
}

/// What is to be captured.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) id: ContainerId,
    pub(crate) process: Process,
    pub(crate) timeout: Option<Duration>,
    /// Bytes a stream that are passed on.
    pub(crate) limit: u64,
    /// By which it may be cancelled.
    pub(crate) exec: ExecId,
}

/// One captured stream.
struct Captured {
    pipe: AsyncFd<OwnedFd>,
    left: u64,
    dropped: u64,
    open: bool,
}

impl Captured {
    fn new(pipe: OwnedFd, limit: u64) -> Result<Self, Error> {
        let nonblocking = || -> io::Result<AsyncFd<OwnedFd>> {
            let flags = rustix::fs::fcntl_getfl(&pipe)?;
            rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
            readable(pipe)
        };
        let pipe = nonblocking().map_err(Error::system("watch a pipe"))?;
        Ok(Self {
            pipe,
            left: limit,
            dropped: 0,
            open: true,
        })
    }

    /// Bytes that may be passed on; empty when all were beyond the limit or the stream has ended.
    async fn read(&mut self) -> Vec<u8> {
        let mut chunk = vec![0; CHUNK];
        let count = loop {
            let Ok(mut ready) = self.pipe.readable().await else {
                break 0;
            };
            match ready.try_io(|pipe| Ok(rustix::io::read(pipe.get_ref(), &mut chunk)?)) {
                Ok(Ok(count)) => break count,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => break 0,
                Err(_would_block) => {}
            }
        };
        self.pass(chunk, count)
    }

    /// What is in the pipe at this moment.
    fn rest(&mut self) -> Vec<u8> {
        let waiting = rustix::io::ioctl_fionread(self.pipe.get_ref()).unwrap_or(0);
        let mut rest = vec![0; usize::try_from(waiting).unwrap_or(0)];
        let mut count = 0;
        while count < rest.len() {
            match rustix::io::read(self.pipe.get_ref(), &mut rest[count..]) {
                Ok(read) if read > 0 => count += read,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.pass(rest, count)
    }

    fn pass(&mut self, mut chunk: Vec<u8>, count: usize) -> Vec<u8> {
        self.open = count > 0;
        let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(count);
        chunk.truncate(passed);
        self.left -= passed as u64;
        self.dropped += (count - passed) as u64;
        chunk
    }
}

impl Pod {
    /// Runs `wanted` and passes on what it prints; `send` answers `false` when nobody listens any more.
    pub(crate) async fn capture<S, F>(&self, wanted: Wanted, mut send: S) -> Result<(), Error>
    where
        S: FnMut(Event) -> F,
        F: Future<Output = bool>,
    {
        let exec = wanted.exec.clone();
        let (stdout, out) = stdio::pipe()?;
        let (stderr, err) = stdio::pipe()?;
        let mut streams = [
            Captured::new(stdout, wanted.limit)?,
            Captured::new(stderr, wanted.limit)?,
        ];
        let io = ProcessIo::Stdio(Stdio {
            stdin: stdio::null()?,
            stdout: out,
            stderr: err,
        });
        let begin = tokio::time::Instant::now();
        let left = Arc::new(Notify::new());
        let running = {
            let mut state = self.state();
            let container = state.container(&wanted.id)?;
            let running = container.run_beside(&wanted.process, io, ExecTree::Own(exec.clone()))?;
            container.captured.insert(exec.clone(), Arc::clone(&left));
            running
        };
        let awaited = running
            .pidfd()
            .try_clone_to_owned()
            .and_then(Awaited::new)
            .map_err(Error::system("watch an exec"))?;
        let following = follow(&mut streams, &awaited, &mut send);
        let following = async {
            tokio::select! {
                listened = following => listened,
                () = left.notified() => false,
            }
        };
        let followed = match wanted.timeout {
            Some(timeout) => tokio::time::timeout_at(begin + timeout, following).await,
            None => Ok(following.await),
        };
        if let Ok(container) = self.state().container(&wanted.id) {
            container.captured.remove(&exec);
        }
        match followed {
            Ok(true) => {
                let code = awaited.reap().map_or(UNKNOWN, |ended| ended.code);
                let dropped = [streams[0].dropped, streams[1].dropped];
                self.settle(&wanted.id, exec, running);
                send(Event::End { code, dropped }).await;
                Ok(())
            }
            Ok(false) => {
                kill(&wanted.id, running, &awaited).await;
                Err(Error::Ended(wanted.id))
            }
            Err(_elapsed) => {
                kill(&wanted.id, running, &awaited).await;
                Err(Error::Deadline(wanted.id))
            }
        }
    }
}

impl Pod {
    /// After an exec's end: what it left running in the background runs on, as a daemon that a postStart hook
    /// started; its cgroup goes when that has ended, at the latest with the container.
    fn settle(&self, id: &ContainerId, exec: ExecId, running: ExecProcess) {
        let mut state = self.state();
        let Ok(container) = state.container(id) else {
            finish(id, running);
            return;
        };
        container.lingering.push((exec, running));
        let lingering = std::mem::take(&mut container.lingering);
        let before = container.lingering.len() + lingering.len();
        for (exec, running) in lingering {
            if container.has_processes_of(&exec) {
                container.lingering.push((exec, running));
            } else {
                finish(id, running);
            }
        }
        // The usual exec comes and goes without a trace on file.
        if !container.lingering.is_empty() || before > 1 {
            self.save(&state);
        }
    }

    /// Ends a captured exec that nobody waits for; one that has ended is no error.
    pub(crate) fn cancel_capture(&self, id: &ContainerId, exec: &ExecId) -> Result<(), Error> {
        if let Some(left) = self.state().container(id)?.captured.get(exec) {
            left.notify_one();
        }
        Ok(())
    }
}

impl Container {
    /// Whether the cgroup that `ExecTree::Own` made below the container's is in use.
    fn has_processes_of(&self, exec: &ExecId) -> bool {
        let path = format!("{}/{}", self.cgroup.path(), exec_name(exec));
        cgroup_path(&path)
            .ok()
            .and_then(|path| Cgroup::open(&path).ok())
            .and_then(|cgroup| cgroup.processes().ok())
            .is_some_and(|processes| !processes.is_empty())
    }
}

/// Passes output on until the process has ended; what the pipes hold then is the last. Who else holds their
/// other ends is not waited for. `false` when nobody listens.
async fn follow<S, F>(streams: &mut [Captured; 2], awaited: &Awaited, send: &mut S) -> bool
where
    S: FnMut(Event) -> F,
    F: Future<Output = bool>,
{
    let [stdout, stderr] = streams;
    loop {
        let event = tokio::select! {
            biased;
            bytes = stdout.read(), if stdout.open => Event::Stdout(bytes),
            bytes = stderr.read(), if stderr.open => Event::Stderr(bytes),
            () = awaited.ended() => break,
        };
        if !pass_on(event, send).await {
            return false;
        }
    }
    pass_on(Event::Stdout(stdout.rest()), send).await && pass_on(Event::Stderr(stderr.rest()), send).await
}

async fn pass_on<S, F>(event: Event, send: &mut S) -> bool
where
    S: FnMut(Event) -> F,
    F: Future<Output = bool>,
{
    match &event {
        Event::Stdout(bytes) | Event::Stderr(bytes) if bytes.is_empty() => true,
        _ => send(event).await,
    }
}

async fn kill(id: &ContainerId, running: ExecProcess, awaited: &Awaited) {
    if let Err(error) = running.kill_tree() {
        tracing::warn!(container = %id, %error, "processes of an exec are left");
    }
    awaited.ended().await;
    awaited.reap();
    finish(id, running);
}

fn finish(id: &ContainerId, running: ExecProcess) {
    if let Err(error) = running.remove() {
        tracing::warn!(container = %id, %error, "the cgroup of an exec is left");
    }
}
