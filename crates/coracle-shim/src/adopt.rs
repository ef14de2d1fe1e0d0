//! Taking over a pod whose shim died: state file, what the keeper held, and what the kernel still knows.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use coracle_container::Init;
use coracle_container::cgroup::Cgroup;
use coracle_types::container::Exit;
use coracle_types::time::UnixNanos;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::watch;

use crate::container::{Container, cgroup_path, read_spec, watch_init};
use crate::deposits::{Found, Owner};
use crate::error::Error;
use crate::exits::{Awaited, UNKNOWN};
use crate::log::{LogWriter, Sources};
use crate::oom::OomWatch;
use crate::pod::{Pod, State};
use crate::record::{ContainerRecord, ProcessRecord, Record};
use crate::sandbox::{Sandbox, watch_pod_init};

impl Pod {
    /// Adopts what `record` tells of. What cannot be adopted is said and left out; the rest goes on.
    pub(crate) fn adopt(self: &Arc<Self>, record: Record) {
        let mut state = self.state();
        for container in record.containers {
            let id = container.id.clone();
            match self.adopt_container(&mut state, container) {
                Ok(adopted) => {
                    state.containers.insert(id, adopted);
                }
                Err(error) => tracing::warn!(pod = %self.id, container = %id, %error, "not adopted"),
            }
        }
        if let Some(sandbox) = record.sandbox {
            let mut found = state.deposits.find(&Owner::Sandbox);
            let pidfd = sandbox.init.and_then(|process| pidfd_of(&mut found, process));
            let lost = sandbox.init.is_some() && pidfd.is_none() && sandbox.stopped_at.is_none();
            let mut sandbox = sandbox;
            if lost {
                sandbox.stopped_at = Some(UnixNanos::now());
            }
            let adopted = Sandbox::adopt(sandbox, pidfd);
            if let Some((_, pidfd)) = adopted.init()
                && let Ok(awaited) = pidfd.try_clone().and_then(Awaited::new)
            {
                tokio::spawn(watch_pod_init(Arc::clone(self), awaited));
            }
            state.sandbox = Some(adopted);
        }
        tracing::info!(containers = state.containers.len(), "took the pod over");
        self.save(&state);
    }

    fn adopt_container(
        self: &Arc<Self>,
        state: &mut State,
        record: ContainerRecord,
    ) -> Result<Container, Error> {
        let owner = Owner::Container(record.id.clone());
        let mut found = state.deposits.find(&owner);
        let spec = read_spec(&record.bundle)?;
        let path = cgroup_path(&record.cgroup)?;
        // It is gone with a container that ended in a scope of systemd's; its exit is known all the same.
        let cgroup = Cgroup::at(&path).map_err(Error::runtime(&record.id))?;
        let pidfd = match record.exit {
            None => pidfd_of(&mut found, record.init),
            Some(_) => None,
        };
        let oom = OomWatch::begin(&cgroup, record.kills_above_before);
        let mut exit = record.exit;
        let mut init = None;
        if let Some(pidfd) = pidfd {
            let awaited = pidfd
                .try_clone()
                .and_then(Awaited::new)
                .map_err(Error::system("watch a container's init"))?;
            let start = found.remove("start").filter(|_| record.started_at.is_none());
            let pid = Pid::from_raw(record.init.pid);
            let pid =
                pid.ok_or_else(|| Error::field("pid", &record.init.pid.to_string(), "is no process"))?;
            init = Some(Init::adopt(pid, pidfd, cgroup.clone(), start));
            tokio::spawn(watch_init(Arc::clone(self), record.id.clone(), awaited));
        } else if exit.is_none() {
            // Keeper and shim were lost, and the process after them.
            let ended = state.deposits.exit_of(&owner);
            let (code, at) = ended.map_or((UNKNOWN, UnixNanos::now()), |exit| (exit.code, exit.at));
            let oom_killed = match &oom {
                Some(oom) => oom.killed(code),
                None => cgroup.oom_kill_count().is_ok_and(|count| count > 0),
            };
            exit = Some(Exit {
                code,
                at,
                oom_killed,
                lost: ended.is_none(),
            });
        }
        end_abandoned_execs(&record, &cgroup);
        let console = found.remove("console");
        let log = restart_log(state, &record, &mut found, console.as_ref())
            .inspect_err(|error| tracing::warn!(container = %record.id, %error, "its log is not written on"))
            .ok()
            .flatten();
        Ok(Container {
            id: record.id,
            bundle: record.bundle,
            spec,
            init,
            process: record.init,
            oom,
            cgroup,
            log: log.map(Arc::new),
            stdin: found.remove("stdin"),
            console,
            created_at: record.created_at,
            started_at: record.started_at,
            paused: record.paused,
            exit: watch::Sender::new(exit),
            execs: BTreeMap::new(),
            lingering: Vec::new(),
            lingering_before: record.lingering,
            captured: BTreeMap::new(),
        })
    }

    /// Another keeper: it gets what the last one held.
    pub(crate) fn change_keeper(&self, socket: &std::path::Path) -> Result<(), Error> {
        let mut state = self.state();
        if state.deposits.socket().as_deref() == Some(socket) && state.deposits.answers() {
            return Ok(());
        }
        state.deposits.change(socket)?;
        let State {
            sandbox,
            containers,
            deposits,
            ..
        } = &mut *state;
        for container in containers
            .values()
            .filter(|container| container.exited().is_none())
        {
            container.deposit(deposits);
        }
        if let Some((pid, pidfd)) = sandbox.as_ref().and_then(Sandbox::init) {
            deposits.process(&Owner::Sandbox, pid, pidfd.as_fd(), None);
        }
        self.save(&state);
        Ok(())
    }
}

/// The client of an exec that was under way went with the dead shim's connection: nobody reads its output
/// and nobody would end it at its deadline.
fn end_abandoned_execs(record: &ContainerRecord, cgroup: &Cgroup) {
    for name in cgroup.names_below() {
        if !name.starts_with("exec-") || record.lingering.contains(&name) {
            continue;
        }
        let ended = cgroup_path(&format!("{}/{name}", record.cgroup)).and_then(|path| {
            let tree = Cgroup::open(&path).map_err(Error::runtime(&record.id))?;
            tree.kill().map_err(Error::runtime(&record.id))?;
            tree.remove().map_err(Error::runtime(&record.id))
        });
        if let Err(error) = ended {
            tracing::warn!(container = %record.id, exec = name, %error, "processes of an exec are left");
        }
    }
}

/// The descriptor that was kept, or one of the very process that was recorded.
fn pidfd_of(found: &mut Found, process: ProcessRecord) -> Option<OwnedFd> {
    if let Some(pidfd) = found.remove("pidfd") {
        return Some(pidfd);
    }
    let pidfd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    // Looked at afterwards: the descriptor is of whoever had the pid then.
    process.exists().then_some(pidfd)
}

fn restart_log(
    state: &mut State,
    record: &ContainerRecord,
    found: &mut Found,
    console: Option<&OwnedFd>,
) -> Result<Option<LogWriter>, Error> {
    let Some(path) = &record.log else { return Ok(None) };
    let stdout = match console {
        Some(console) => Some(
            console
                .try_clone()
                .map_err(Error::system("duplicate a terminal's master"))?,
        ),
        None => found.remove("stdout"),
    };
    let Some(stdout) = stdout else { return Ok(None) };
    let sources = Sources {
        stdout,
        stderr: found.remove("stderr"),
    };
    LogWriter::start(&mut state.pool, path, sources).map(Some)
}
