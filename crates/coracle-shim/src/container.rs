//! A container's life: created, started, signalled, waited for, deleted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_container::cgroup::{Cgroup, CgroupPath};
use coracle_container::{ConsoleSize, CreateRequest, ExecProcess, Init, ProcessIo, RootfsSource};
use coracle_sys::signalfd::send_to_pidfd;
use coracle_types::container::Exit;
use coracle_types::signal::Signal;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, ExecId};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use tokio::sync::{Notify, watch};

use crate::deposits::{self, Owner};
use crate::error::Error;
use crate::exec::Exec;
use crate::exits::Awaited;
use crate::log::{LogWriter, Sources};
use crate::oom::OomWatch;
use crate::pod::{Pod, State};
use crate::record::{ContainerRecord, ProcessRecord};
use crate::stdio::Streams;

/// Largest `config.json` that is read.
const SPEC_MAX: u64 = 64 << 20;

/// A container of the pod.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    pub(crate) spec: Spec,
    /// Absent when it had ended before this shim adopted it.
    pub(crate) init: Option<Init>,
    pub(crate) process: ProcessRecord,
    pub(crate) cgroup: Cgroup,
    /// Where its cgroup may go before it is asked.
    pub(crate) oom: Option<OomWatch>,
    pub(crate) log: Option<Arc<LogWriter>>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) created_at: UnixNanos,
    pub(crate) started_at: Option<UnixNanos>,
    pub(crate) paused: bool,
    pub(crate) exit: watch::Sender<Option<Exit>>,
    pub(crate) execs: BTreeMap<ExecId, Exec>,
    /// Captured execs that have ended and left something running.
    pub(crate) lingering: Vec<(ExecId, ExecProcess)>,
    /// Names of the cgroups of those that a shim before this one knew.
    pub(crate) lingering_before: Vec<String>,
    /// Captured execs under way, to be told when nobody waits for them.
    pub(crate) captured: BTreeMap<ExecId, Arc<Notify>>,
}

/// What a container is asked for with.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: RootfsSource,
    pub(crate) terminal: bool,
    pub(crate) streams: Streams,
}

impl Container {
    pub(crate) fn exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// In a word, for refusals.
    pub(crate) fn phase(&self) -> &'static str {
        match (self.exited(), self.started_at, self.paused) {
            (Some(_), ..) => "exited",
            (None, None, _) => "created and not started",
            (None, Some(_), true) => "paused",
            (None, Some(_), false) => "running",
        }
    }

    /// Kills all of it, on request.
    pub(crate) fn kill_all(&self) -> Result<(), Error> {
        if let Some(oom) = &self.oom {
            oom.end_is_asked();
        }
        let killed = self.cgroup.kill().map_err(Error::runtime(&self.id));
        // Somebody may have moved it out of its cgroup, or removed that.
        if let Some(init) = self.init.as_ref().filter(|_| self.exited().is_none()) {
            // One that has ended meanwhile is no error.
            let _ = send_to_pidfd(init.pidfd(), Signal::KILL.number());
        }
        killed
    }

    pub(crate) fn is_running(&self) -> bool {
        self.exited().is_none() && self.started_at.is_some()
    }

    pub(crate) fn refuse(&self, operation: &'static str) -> Error {
        Error::State {
            operation,
            id: self.id.clone(),
            state: self.phase(),
        }
    }

    /// Whether processes outlive its init: it is not the first of its PID namespace.
    fn outlived_by_others(&self) -> bool {
        let namespaces = self
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref());
        !namespaces.is_some_and(|namespaces| {
            namespaces
                .iter()
                .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
        })
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            init: self.process,
            cgroup: self.cgroup.path().as_str().to_owned(),
            log: self.log.as_ref().map(|log| log.path().into()),
            created_at: self.created_at,
            started_at: self.started_at,
            paused: self.paused,
            exit: self.exited(),
            kills_above_before: self.oom.as_ref().map(OomWatch::above_before),
            lingering: self
                .lingering
                .iter()
                .map(|(exec, _)| exec_name(exec))
                .chain(self.lingering_before.iter().cloned())
                .collect(),
        }
    }

    /// Hands the keeper duplicates of all that must outlive this shim.
    pub(crate) fn deposit(&self, deposits: &deposits::Deposits) {
        let owner = Owner::Container(self.id.clone());
        if let Some(init) = &self.init {
            deposits.process(&owner, self.process.pid, init.pidfd(), init.start_channel());
        }
        let stdin = ("stdin", self.stdin.as_ref());
        if self.console.is_some() {
            deposits.io(
                &self.id,
                &deposits::named(&[("console", self.console.as_ref()), stdin]),
            );
            return;
        }
        let deposited = self.log.as_ref().and_then(|log| {
            log.with_sources(|[stdout, stderr]| {
                let all = [("stdout", stdout.as_ref()), ("stderr", stderr.as_ref()), stdin];
                deposits.io(&self.id, &deposits::named(&all));
            })
        });
        if deposited.is_none() {
            deposits.io(&self.id, &deposits::named(&[stdin]));
        }
    }
}

/// Reads a bundle's specification.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let file = fs::File::open(&path).map_err(Error::file("open", &path))?;
    let mut text = Vec::new();
    file.take(SPEC_MAX + 1)
        .read_to_end(&mut text)
        .map_err(Error::file("read", &path))?;
    if text.len() as u64 > SPEC_MAX {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is larger than 64 MiB");
        return Err(Error::file("read", path)(error));
    }
    serde_json::from_slice(&text).map_err(|error| Error::file("parse", path)(std::io::Error::from(error)))
}

impl Pod {
    /// Makes a container up to the point where only its start is missing; its init's pid.
    pub(crate) fn create(self: &Arc<Self>, wanted: Wanted) -> Result<i32, Error> {
        let mut state = self.state();
        if state.containers.contains_key(&wanted.id) {
            return Err(Error::Exists {
                what: "container",
                id: wanted.id.to_string(),
            });
        }
        // It leaves at the end of this function, whatever came of it.
        let _stand_in = state.stand_ins.remove(wanted.id.as_str());
        let spec = read_spec(&wanted.bundle)?;
        let id = wanted.id.clone();
        let (io, mut sources, stdin) = if wanted.terminal {
            (ProcessIo::Console(None), None, None)
        } else {
            let opened = wanted.streams.open()?;
            (ProcessIo::Stdio(opened.process), opened.sources, opened.stdin)
        };
        // Before the container: a log that cannot be written refuses the creation.
        let mut log = match (wanted.streams.log(), sources.take()) {
            (Some(path), Some(sources)) => Some(LogWriter::start(&mut state.pool, path, sources)?),
            (Some(path), None) => {
                crate::log::check(path)?;
                None
            }
            (None, _) => None,
        };
        let request = CreateRequest {
            id: &id,
            spec: &spec,
            bundle: &wanted.bundle,
            rootfs: wanted.rootfs,
            io,
        };
        let created = coracle_container::create(request)
            .map_err(Error::runtime(&id))
            .and_then(|mut init| {
                let console = init.take_console();
                if let (Some(path), Some(console)) = (wanted.streams.log(), &console) {
                    let stdout = console
                        .try_clone()
                        .map_err(Error::system("duplicate a terminal's master"))?;
                    log = Some(LogWriter::start(
                        &mut state.pool,
                        path,
                        Sources { stdout, stderr: None },
                    )?);
                }
                let awaited = init
                    .pidfd()
                    .try_clone_to_owned()
                    .and_then(Awaited::new)
                    .map_err(Error::system("watch a container's init"))?;
                Ok((init, console, awaited))
            });
        let (init, console, awaited) = match created {
            Ok(created) => created,
            Err(error) => {
                if let Some(log) = log {
                    tokio::spawn(close_log(Arc::clone(self), log));
                }
                return Err(error);
            }
        };
        for warning in init.warnings() {
            tracing::warn!(container = %id, "{warning}");
        }
        let pid = init.pid().as_raw_nonzero().get();
        let container = Container {
            id: id.clone(),
            bundle: wanted.bundle,
            spec,
            process: ProcessRecord::of(pid),
            cgroup: init.cgroup().clone(),
            oom: OomWatch::begin(init.cgroup(), None),
            init: Some(init),
            log: log.map(Arc::new),
            stdin,
            console,
            created_at: UnixNanos::now(),
            started_at: None,
            paused: false,
            exit: watch::Sender::new(None),
            execs: BTreeMap::new(),
            lingering: Vec::new(),
            lingering_before: Vec::new(),
            captured: BTreeMap::new(),
        };
        container.deposit(&state.deposits);
        state.containers.insert(id.clone(), container);
        self.save(&state);
        drop(state);
        tracing::debug!(container = %id, pid, "created");
        tokio::spawn(watch_init(Arc::clone(self), id, awaited));
        Ok(pid)
    }

    /// Lets a created container run.
    pub(crate) fn start(&self, id: &ContainerId) -> Result<i32, Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        if container.started_at.is_some() || container.exited().is_some() {
            return Err(container.refuse("start"));
        }
        let Some(init) = container.init.as_mut() else {
            return Err(container.refuse("start"));
        };
        init.start().map_err(Error::runtime(id))?;
        container.started_at = Some(UnixNanos::now());
        let pid = container.process.pid;
        self.save(&state);
        tracing::debug!(container = %id, pid, "started");
        Ok(pid)
    }

    /// Sends a signal to the container's init, or to all of its processes.
    pub(crate) fn kill(&self, id: &ContainerId, signal: Signal, everywhere: bool) -> Result<(), Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        if everywhere {
            if signal == Signal::KILL {
                return container.kill_all();
            }
            for pid in container.cgroup.processes().map_err(Error::runtime(id))? {
                // It may have ended since it was listed.
                if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
                    let _ = send_to_pidfd(pidfd.as_fd(), signal.number());
                }
            }
            return Ok(());
        }
        let ended = || Error::Ended(id.clone());
        if container.exited().is_some() {
            return Err(ended());
        }
        if let Some(oom) = container.oom.as_ref().filter(|_| signal == Signal::KILL) {
            oom.end_is_asked();
        }
        let init = container.init.as_ref().ok_or_else(ended)?;
        send_to_pidfd(init.pidfd(), signal.number()).map_err(|error| match error.raw_os_error() {
            Some(number) if number == rustix::io::Errno::SRCH.raw_os_error() => ended(),
            _ => Error::system("signal a container's init")(error),
        })
    }

    /// Its exit, when it comes.
    pub(crate) async fn wait(&self, id: &ContainerId) -> Result<Exit, Error> {
        let exit = self.state().container(id)?.exit.subscribe();
        self.told(exit).await
    }

    /// Removes an ended container, or one that was never started, and its cgroup.
    pub(crate) async fn delete(&self, id: &ContainerId) -> Result<(i32, Exit), Error> {
        let (exit, log) = {
            let mut state = self.state();
            let container = state.container(id)?;
            if container.is_running() {
                return Err(container.refuse("delete"));
            }
            if container.exited().is_none() {
                container.kill_all()?;
            }
            (container.exit.subscribe(), container.log.take())
        };
        // Taken before the wait, so that two deletions at once close it once; its watcher has its own share.
        let exit = self.told(exit).await?;
        if let Some(mut log) = log.and_then(Arc::into_inner) {
            log.close().await;
            log.recycle(&mut self.state().pool);
        }
        let mut state = self.state();
        let container = state.container(id)?;
        container.cgroup.remove().map_err(Error::runtime(id))?;
        let pid = container.process.pid;
        state.containers.remove(id);
        state.deposits.withdraw(&Owner::Container(id.clone()));
        self.save(&state);
        Ok((pid, exit))
    }

    /// Stops or continues all of its processes.
    pub(crate) fn pause(&self, id: &ContainerId, pause: bool) -> Result<(), Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        if !container.is_running() {
            return Err(container.refuse(if pause { "pause" } else { "resume" }));
        }
        let done = if pause {
            container.cgroup.freeze()
        } else {
            container.cgroup.thaw()
        };
        done.map_err(Error::runtime(id))?;
        container.paused = pause;
        self.save(&state);
        Ok(())
    }

    pub(crate) fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<(), Error> {
        self.state()
            .container(id)?
            .cgroup
            .apply(resources)
            .map_err(Error::runtime(id))
    }

    pub(crate) fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        match &container.log {
            Some(log) if container.is_running() => log.reopen(),
            Some(_) => Err(container.refuse("reopen the log of")),
            None => Err(Error::field(
                "container_id",
                id.as_str(),
                "it was created without a CRI log",
            )),
        }
    }

    pub(crate) fn close_stdin(&self, id: &ContainerId) -> Result<(), Error> {
        let mut state = self.state();
        let State {
            containers, deposits, ..
        } = &mut *state;
        let container = containers
            .get_mut(id)
            .ok_or_else(|| Error::NoContainer(id.clone()))?;
        if container.stdin.take().is_some() {
            container.deposit(deposits);
        }
        Ok(())
    }

    pub(crate) fn resize(&self, id: &ContainerId, size: ConsoleSize) -> Result<(), Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        let Some(console) = &container.console else {
            return Err(Error::field("id", id.as_str(), "the container has no terminal"));
        };
        coracle_container::console::resize(console.as_fd(), size).map_err(Error::system("resize a terminal"))
    }
}

/// Follows a container's init to its end, and reports the end when all that it wrote is in the log.
pub(crate) async fn watch_init(pod: Arc<Pod>, id: ContainerId, awaited: Awaited) {
    awaited.ended().await;
    let owner = Owner::Container(id.clone());
    let (exit, log) = {
        let mut state = pod.state();
        let ended = awaited.learn(&state.deposits, &owner);
        let Ok(container) = state.container(&id) else {
            return;
        };
        if container.outlived_by_others()
            && let Err(error) = container.cgroup.kill()
        {
            tracing::warn!(container = %id, %error, "processes of an ended container are left");
        }
        let oom_killed = match &container.oom {
            Some(oom) => oom.killed(ended.code),
            None => container.cgroup.oom_kill_count().is_ok_and(|count| count > 0),
        };
        (
            Exit {
                code: ended.code,
                at: ended.at,
                oom_killed,
                lost: ended.lost,
            },
            container.log.clone(),
        )
    };
    if let Some(log) = &log {
        log.drain().await;
    }
    drop(log);
    let mut state = pod.state();
    let State {
        containers, deposits, ..
    } = &mut *state;
    if let Some(container) = containers.get_mut(&id) {
        container.exit.send_replace(Some(exit));
        container.init = None;
        container.oom = None;
        container.stdin = None;
        deposits.withdraw(&owner);
    }
    pod.save(&state);
}

/// Ends the writer of a container that came to nothing.
async fn close_log(pod: Arc<Pod>, mut log: LogWriter) {
    log.close().await;
    log.recycle(&mut pod.state().pool);
}

/// The name of the cgroup that `ExecTree::Own` makes below the container's.
pub(crate) fn exec_name(exec: &ExecId) -> String {
    format!("exec-{}", exec.short())
}

/// The cgroup that a record names.
pub(crate) fn cgroup_path(text: &str) -> Result<CgroupPath, Error> {
    text.parse().map_err(|source| Error::Namespaces {
        operation: "read a cgroup's path",
        source,
    })
}
