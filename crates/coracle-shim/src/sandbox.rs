//! The pod's namespaces and its init: made, pinned, watched, taken away.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_container::cgroup::Cgroup;
use coracle_container::namespace::{self, Namespace, PinRequest, Pins};
use coracle_container::pod_init::{self, PodInitRequest};
use coracle_sys::signalfd::send_to_pidfd;
use coracle_types::container::Exit;
use coracle_types::security::IdMapping;
use coracle_types::signal::Signal;
use coracle_types::time::UnixNanos;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::sync::watch;

use crate::container::cgroup_path;
use crate::deposits::Owner;
use crate::error::Error;
use crate::exits::Awaited;
use crate::pod::{Pod, State};
use crate::record::{ProcessRecord, SandboxRecord};

/// How long killed processes may take to be gone before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a sandbox is asked for with.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Namespaces to make, in any order; the PID namespace is its init's.
    pub(crate) pins: Pins,
    /// The network namespace that exists already.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) hostname: Option<String>,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) uids: Vec<IdMapping>,
    pub(crate) gids: Vec<IdMapping>,
    /// Cgroup of the pod's init; with it there is one.
    pub(crate) init_cgroup: Option<String>,
    /// User and group of the init.
    pub(crate) init_user: (u32, u32),
    /// Directory on which the pod's shared memory is mounted, and its size in bytes.
    pub(crate) shm: Option<(PathBuf, u64)>,
}

impl Wanted {
    /// Host ids of root inside the pod.
    fn root_inside(&self) -> (u32, u32) {
        let host = |mappings: &[IdMapping]| {
            mappings
                .iter()
                .find(|mapping| mapping.container_id == 0)
                .map_or(0, |mapping| mapping.host_id)
        };
        (host(&self.uids), host(&self.gids))
    }
}

/// What a shim may have left of which no state file tells.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Absolute cgroups; what runs in them is killed.
    pub(crate) cgroups: Vec<String>,
    /// Directory of the namespaces' pins.
    pub(crate) pins: Option<PathBuf>,
    /// Directory of the shared memory.
    pub(crate) shm: Option<PathBuf>,
}

/// A sandbox that was made.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// For the start of its init; an adopted sandbox was started before.
    wanted: Option<Wanted>,
    pins: Vec<PathBuf>,
    shm: Option<PathBuf>,
    init: Option<PodInit>,
    init_cgroup: Option<Cgroup>,
    created_at: UnixNanos,
    /// Set when its init ends or it is stopped.
    exit: watch::Sender<Option<Exit>>,
    stopped_at: Option<UnixNanos>,
}

#[derive(Debug)]
struct PodInit {
    process: ProcessRecord,
    pidfd: OwnedFd,
}

/// A sandbox as it is told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SandboxStatus {
    pub(crate) pid: Option<i32>,
    pub(crate) ready: bool,
    pub(crate) created_at: UnixNanos,
    pub(crate) exit: Option<Exit>,
}

impl Sandbox {
    pub(crate) fn record(&self) -> SandboxRecord {
        SandboxRecord {
            pins: self.pins.clone(),
            shm: self.shm.clone(),
            init: self.init.as_ref().map(|init| init.process),
            init_cgroup: self
                .init_cgroup
                .as_ref()
                .map(|cgroup| cgroup.path().as_str().to_owned()),
            created_at: self.created_at,
            stopped_at: self.stopped_at,
        }
    }

    fn status(&self) -> SandboxStatus {
        let exit = *self.exit.borrow();
        SandboxStatus {
            pid: self.init.as_ref().map(|init| init.process.pid),
            ready: exit.is_none() && self.stopped_at.is_none(),
            created_at: self.created_at,
            exit,
        }
    }

    /// One that a dead shim made; its init is watched when its descriptor was kept.
    pub(crate) fn adopt(record: SandboxRecord, pidfd: Option<OwnedFd>) -> Self {
        let exit = record.stopped_at.map(|at| Exit {
            code: 0,
            at,
            oom_killed: false,
            lost: false,
        });
        let init_cgroup = record
            .init_cgroup
            .as_deref()
            .and_then(|path| cgroup_path(path).ok())
            .and_then(|path| Cgroup::open(&path).ok());
        Self {
            wanted: None,
            pins: record.pins,
            shm: record.shm,
            init: record
                .init
                .zip(pidfd)
                .map(|(process, pidfd)| PodInit { process, pidfd }),
            init_cgroup,
            created_at: record.created_at,
            exit: watch::Sender::new(exit),
            stopped_at: record.stopped_at,
        }
    }

    /// Duplicates of its init's descriptor, for the keeper and for who watches it.
    pub(crate) fn init(&self) -> Option<(i32, &OwnedFd)> {
        self.init.as_ref().map(|init| (init.process.pid, &init.pidfd))
    }
}

impl Pod {
    /// Makes and pins the pod's namespaces.
    pub(crate) fn create_sandbox(&self, wanted: Wanted) -> Result<(), Error> {
        let mut state = self.state();
        if state.sandbox.is_some() {
            return Err(Error::Exists {
                what: "sandbox",
                id: self.id.to_string(),
            });
        }
        let mut pins: Vec<PathBuf> = own_pins(&wanted).into_values().collect();
        pins.extend(wanted.pins.get(&Namespace::Pid).cloned());
        // On file before anything is made: a successor takes away what a shim that is killed here left.
        state.sandbox = Some(Sandbox {
            pins,
            shm: wanted.shm.as_ref().map(|(path, _)| path.clone()),
            wanted: None,
            init: None,
            init_cgroup: None,
            created_at: UnixNanos::now(),
            exit: watch::Sender::new(None),
            stopped_at: None,
        });
        self.save(&state);
        let made = self.make_namespaces(&wanted);
        match (&made, &mut state.sandbox) {
            (Ok(()), Some(sandbox)) => sandbox.wanted = Some(wanted),
            _ => {
                state.sandbox = None;
                self.save(&state);
            }
        }
        made
    }

    /// Pins the namespaces and mounts the shared memory; on failure neither stays.
    fn make_namespaces(&self, wanted: &Wanted) -> Result<(), Error> {
        let pins = own_pins(wanted);
        let made: Vec<PathBuf> = pins.values().cloned().collect();
        if !pins.is_empty() || !wanted.sysctls.is_empty() {
            let request = PinRequest {
                pins,
                hostname: wanted.hostname.as_deref(),
                sysctls: wanted.sysctls.clone(),
                uids: &wanted.uids,
                gids: &wanted.gids,
                join: wanted
                    .netns
                    .iter()
                    .map(|path| (Namespace::Net, path.clone()))
                    .collect(),
            };
            namespace::pin(&request).map_err(|source| Error::Namespaces {
                operation: "make namespaces",
                source,
            })?;
        }
        if let Some((path, bytes)) = &wanted.shm
            && let Err(error) = mount_shm(path, *bytes, wanted.root_inside())
        {
            for pin in made.iter().rev() {
                if let Err(error) = namespace::unpin(pin) {
                    tracing::warn!(pod = %self.id, %error, "a namespace is left");
                }
            }
            return Err(error);
        }
        Ok(())
    }

    /// Starts the pod's init if one is wanted; its pid.
    pub(crate) fn start_sandbox(self: &Arc<Self>) -> Result<SandboxStatus, Error> {
        let mut state = self.state();
        let State {
            sandbox,
            deposits,
            stand_ins,
            ..
        } = &mut *state;
        // It leaves at the end of this function, whatever came of it.
        let _stand_in = stand_ins.remove(self.id.as_str());
        let sandbox = sandbox.as_mut().ok_or(Error::Sandbox("it was not created"))?;
        let Some(wanted) = sandbox.wanted.take() else {
            return Err(Error::Sandbox("it was started before"));
        };
        let Some(path) = &wanted.init_cgroup else {
            return Ok(sandbox.status());
        };
        let failed = |operation| move |source| Error::Namespaces { operation, source };
        let cgroup = Cgroup::create(&cgroup_path(path)?).map_err(failed("make the init's cgroup"))?;
        let mut join: Vec<(Namespace, PathBuf)> = wanted.pins.clone().into_iter().collect();
        join.retain(|(kind, _)| *kind != Namespace::Pid);
        join.extend(wanted.netns.iter().map(|path| (Namespace::Net, path.clone())));
        let request = PodInitRequest {
            join,
            cgroup: Some(&cgroup),
            pid_pin: wanted.pins.get(&Namespace::Pid).cloned(),
            user: wanted.init_user,
        };
        let init = match pod_init::spawn(&request) {
            Ok(init) => init,
            Err(error) => {
                let _ = cgroup.remove();
                sandbox.wanted = Some(wanted);
                return Err(failed("start the pod's init")(error));
            }
        };
        let duplicate = || init.pidfd().try_clone_to_owned();
        let pidfd = duplicate().map_err(Error::system("watch the pod's init"))?;
        let awaited = duplicate()
            .and_then(Awaited::new)
            .map_err(Error::system("watch the pod's init"))?;
        let process = ProcessRecord::of(init.pid().as_raw_nonzero().get());
        deposits.process(&Owner::Sandbox, process.pid, pidfd.as_fd(), None);
        sandbox.init = Some(PodInit { process, pidfd });
        sandbox.init_cgroup = Some(cgroup);
        let status = sandbox.status();
        self.save(&state);
        drop(state);
        tokio::spawn(watch_pod_init(Arc::clone(self), awaited));
        Ok(status)
    }

    pub(crate) fn sandbox_status(&self) -> Result<SandboxStatus, Error> {
        let state = self.state();
        state
            .sandbox
            .as_ref()
            .map(Sandbox::status)
            .ok_or(Error::Sandbox("it was not created"))
    }

    /// Returns when the pod's init has ended or the sandbox was stopped.
    pub(crate) async fn wait_sandbox(&self) -> Result<Exit, Error> {
        let exit = match &self.state().sandbox {
            Some(sandbox) => sandbox.exit.subscribe(),
            None => return Err(Error::Sandbox("it was not created")),
        };
        self.told(exit).await
    }

    /// Kills what still runs in the pod, then takes its namespaces away. It may be repeated.
    pub(crate) async fn stop_sandbox(&self) -> Result<(), Error> {
        self.kill_containers().await?;
        let exit = {
            let state = self.state();
            let Some(sandbox) = &state.sandbox else {
                return Ok(());
            };
            sandbox
                .init
                .as_ref()
                .filter(|_| sandbox.exit.borrow().is_none())
                .map(|init| {
                    // It is gone when this fails, and then its watcher says so.
                    let _ = send_to_pidfd(init.pidfd.as_fd(), Signal::KILL.number());
                    sandbox.exit.subscribe()
                })
        };
        if let Some(exit) = exit {
            tokio::time::timeout(PATIENCE, self.told(exit))
                .await
                .map_err(|_| Error::Sandbox("its init does not die"))??;
        }
        let mut state = self.state();
        let Some(sandbox) = &mut state.sandbox else {
            return Ok(());
        };
        let failed = |operation| move |source| Error::Namespaces { operation, source };
        if let Some(cgroup) = &sandbox.init_cgroup {
            cgroup.remove().map_err(failed("remove the init's cgroup"))?;
            sandbox.init_cgroup = None;
        }
        // Those that others were made inside of come last.
        while let Some(pin) = sandbox.pins.last() {
            namespace::unpin(pin).map_err(failed("unpin a namespace"))?;
            sandbox.pins.pop();
        }
        if let Some(shm) = sandbox.shm.take() {
            unmount_shm(&shm)?;
        }
        let at = UnixNanos::now();
        sandbox.stopped_at.get_or_insert(at);
        let exit = Exit {
            code: 0,
            at,
            oom_killed: false,
            lost: false,
        };
        sandbox.exit.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(exit);
            first
        });
        state.deposits.withdraw(&Owner::Sandbox);
        self.save(&state);
        Ok(())
    }

    async fn kill_containers(&self) -> Result<(), Error> {
        let mut exits = Vec::new();
        for container in self.state().containers.values() {
            if container.exited().is_none() {
                container.kill_all()?;
                exits.push((container.id.clone(), container.exit.subscribe()));
            }
        }
        for (id, exit) in exits {
            let stuck = |_| Error::State {
                operation: "kill",
                id,
                state: "running after SIGKILL",
            };
            tokio::time::timeout(PATIENCE, self.told(exit))
                .await
                .map_err(stuck)??;
        }
        Ok(())
    }

    /// Takes all of the pod away: nothing of it is left but the directories that others made.
    pub(crate) async fn tear_down(&self) -> Result<(), Error> {
        self.stop_sandbox().await?;
        let containers: Vec<_> = self.state().containers.keys().cloned().collect();
        for id in containers {
            self.delete(&id).await?;
        }
        self.state().deposits.forget();
        for file in ["shim.sock", "shim.json", "shim.new"] {
            let path = self.state_dir.join(file);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Pod {
    /// Takes away by path what no state file told this shim of.
    pub(crate) fn remove_remains(&self, remains: &Remains) -> Result<(), Error> {
        let state = self.state();
        let known = |path: &str| {
            let of_init = state
                .sandbox
                .as_ref()
                .and_then(|sandbox| sandbox.init_cgroup.as_ref());
            let cgroups = state.containers.values().map(|container| &container.cgroup);
            cgroups
                .chain(of_init)
                .any(|cgroup| cgroup.path().as_str() == path)
        };
        for text in remains.cgroups.iter().filter(|text| !known(text)) {
            let failed = |operation| move |source| Error::Namespaces { operation, source };
            match Cgroup::open(&cgroup_path(text)?) {
                Err(coracle_container::Error::Cgroup { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("find a cgroup")(error)),
                Ok(cgroup) => {
                    cgroup.kill().map_err(failed("kill what is left in a cgroup"))?;
                    cgroup.remove().map_err(failed("remove a cgroup"))?;
                }
            }
        }
        let pinned = state
            .sandbox
            .as_ref()
            .map(|sandbox| sandbox.pins.as_slice())
            .unwrap_or_default();
        for entry in remains
            .pins
            .iter()
            .filter_map(|pins| std::fs::read_dir(pins).ok())
            .flatten()
            .flatten()
        {
            let pin = entry.path();
            if !pinned.contains(&pin) {
                namespace::unpin(&pin).map_err(|source| Error::Namespaces {
                    operation: "unpin a namespace",
                    source,
                })?;
            }
        }
        match &remains.shm {
            Some(shm) if state.sandbox.as_ref().is_none_or(|sandbox| sandbox.shm.is_none()) => {
                unmount_shm(shm)
            }
            _ => Ok(()),
        }
    }
}

/// Mounts a tmpfs of `bytes` that all of the pod's containers share as /dev/shm.
fn mount_shm(path: &Path, bytes: u64, (uid, gid): (u32, u32)) -> Result<(), Error> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::file("create", path)(error));
        }
        _ => {}
    }
    let data = CString::new(format!("mode=1777,size={bytes},uid={uid},gid={gid}"))
        .map_err(|error| Error::file("mount shared memory on", path)(std::io::Error::from(error)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", path, "tmpfs", flags, data.as_c_str())
        .map_err(Error::file("mount shared memory on", path))
}

/// Takes it and its directory away; it may be gone.
fn unmount_shm(path: &Path) -> Result<(), Error> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(path, flags) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(Error::file("unmount", path)(error)),
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The namespaces that are made at once: the PID namespace comes with its init.
fn own_pins(wanted: &Wanted) -> Pins {
    let mut pins = wanted.pins.clone();
    pins.remove(&Namespace::Pid);
    pins
}

/// Follows the pod's init to its end.
pub(crate) async fn watch_pod_init(pod: Arc<Pod>, awaited: Awaited) {
    awaited.ended().await;
    let mut state = pod.state();
    let ended = awaited.learn(&state.deposits, &Owner::Sandbox);
    if let Some(sandbox) = &mut state.sandbox {
        let exit = Exit {
            code: ended.code,
            at: ended.at,
            oom_killed: false,
            lost: ended.lost,
        };
        sandbox.exit.send_replace(Some(exit));
    }
    pod.save(&state);
}
