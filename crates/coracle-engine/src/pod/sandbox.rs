//! The sandbox itself: its start, the removal of its kernel objects, and its end.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use coracle_network::PodNetwork;
use coracle_spec::HandlerDefaults;
use coracle_store::Ledger;
use coracle_task::{NamespaceRequest, SandboxRequest, Shim};
use coracle_types::container::Exit;
use coracle_types::security::NamespaceMode;
use coracle_types::{ContainerId, Kind};

use super::actor::lock;
use crate::error::EngineError;
use crate::objects::Object;
use crate::parts::Parts;
use crate::record::{ContainerRecord, PodRecord, io_failed, make_private_dir};
use crate::trace::Trace;

/// Size of a pod's shared memory, as containerd and CRI-O have it.
const SHM_BYTES: u64 = 64 << 20;

/// What operations on a pod work with; they hold no reference to the actor.
#[derive(Clone)]
pub(super) struct PodContext {
    pub(super) parts: Arc<Parts>,
    pub(super) pod: Arc<PodRecord>,
    pub(super) ledger: Arc<Mutex<Ledger<Object>>>,
    pub(super) trace: Trace,
}

/// A sandbox that is up.
pub(super) struct Started {
    pub(super) shim: Shim,
    pub(super) ips: Vec<IpAddr>,
    pub(super) netns: Option<PathBuf>,
}

/// A sandbox that did not come up.
pub(super) struct NotStarted {
    /// Why not.
    pub(super) error: EngineError,
    /// Failure when something of it stayed; the ledger says what.
    pub(super) undone: Result<(), EngineError>,
}

/// What a stop achieved.
pub(super) struct TornDown {
    /// How containers ended that still ran.
    pub(super) exits: Vec<(ContainerId, Exit)>,
    /// Whether the shim left.
    pub(super) shim_gone: bool,
    /// Failure when something stayed; the ledger says what.
    pub(super) outcome: Result<(), EngineError>,
}

/// Paths of a pod's volatile files.
pub(super) struct PodFiles {
    dir: PathBuf,
}

impl PodFiles {
    /// Where its namespaces are pinned.
    pub(super) fn namespaces(&self) -> PathBuf {
        self.dir.join("ns")
    }

    /// The pin of one namespace: `ipc`, `uts`, `pid`, `user`.
    pub(super) fn namespace(&self, kind: &str) -> PathBuf {
        self.dir.join("ns").join(kind)
    }

    pub(super) fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    pub(super) fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    pub(super) fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }
}

impl PodContext {
    pub(super) fn dir(&self) -> PathBuf {
        self.parts.records.pod_dir(&self.pod.id)
    }

    pub(super) fn files(&self) -> PodFiles {
        PodFiles { dir: self.dir() }
    }

    fn own_network(&self) -> bool {
        self.pod.config.security.namespaces.network != NamespaceMode::Node
    }

    pub(super) fn user_namespace(&self) -> Option<&coracle_types::security::UserNamespace> {
        self.pod
            .config
            .security
            .namespaces
            .user
            .as_ref()
            .filter(|user| user.mode != NamespaceMode::Node)
    }

    fn network(&self) -> PodNetwork {
        let config = &self.pod.config;
        PodNetwork {
            id: self.pod.id.clone(),
            name: config.metadata.name.clone(),
            namespace: config.metadata.namespace.clone(),
            uid: config.metadata.uid.clone(),
            netns: self.parts.networks.netns_path(&self.pod.id),
            port_mappings: config.port_mappings.clone(),
            annotations: config.annotations.clone(),
            dns: config.dns.clone(),
            cgroup_path: self.cgroup_parent(),
        }
    }

    /// RunPodSandbox. On failure everything is undone before the error is given.
    pub(super) async fn run(self) -> Result<Started, NotStarted> {
        match self.start().await {
            Ok(started) => Ok(started),
            Err(error) => Err(NotStarted {
                error,
                undone: self.remove(None, Vec::new()).await.outcome,
            }),
        }
    }

    async fn start(&self) -> Result<Started, EngineError> {
        self.trace.step("run.record", async { self.note() }).await?;
        self.trace.step("run.files", async { self.write_files() }).await?;
        let (shim, network) = if self.user_namespace().is_some() {
            // The network namespace must belong to the pod's user namespace, which the shim makes.
            let shim = self.launch_with_scope().await?;
            self.create_sandbox(&shim).await?;
            (shim, self.attach().await?)
        } else {
            let (shim, network) = futures::join!(self.launch_with_scope(), self.attach());
            let (shim, network) = (shim?, network?);
            self.create_sandbox(&shim).await?;
            (shim, network)
        };
        let netns = self
            .own_network()
            .then(|| self.parts.networks.netns_path(&self.pod.id));
        Ok(Started {
            shim,
            ips: network,
            netns,
        })
    }

    /// The intents, before anything is made.
    fn note(&self) -> Result<(), EngineError> {
        let mut intents = vec![
            Object::Shim,
            Object::Namespaces {
                path: self.files().namespaces(),
            },
        ];
        if self.own_network() {
            let network = self.network();
            let of = self
                .parts
                .networks
                .intents(&network)
                .iter()
                .map(ToString::to_string)
                .collect();
            intents.push(Object::Netns { path: network.netns });
            intents.push(Object::Attachment { of });
        }
        self.parts.records.put_pod(&self.pod)?;
        lock(&self.ledger)
            .record(intents)
            .map_err(EngineError::from_cause("note what will be made"))
    }

    fn write_files(&self) -> Result<(), EngineError> {
        let files = self.files();
        let config = &self.pod.config;
        make_private_dir(&files.namespaces())?;
        let root = self
            .user_namespace()
            .map(|user| (root_of(&user.uids), root_of(&user.gids)));
        let write = |path: &Path, text: &[u8]| {
            fs::write(path, text).map_err(|error| io_failed("write", path, &error))?;
            let Some((uid, gid)) = root else { return Ok(()) };
            std::os::unix::fs::chown(path, uid, gid).map_err(|error| io_failed("give away", path, &error))
        };
        let hostname = if config.hostname.is_empty() {
            host_name()
        } else {
            config.hostname.clone()
        };
        write(
            &files.hostname(),
            coracle_spec::hostname_file(&hostname).as_bytes(),
        )?;
        write(
            &files.hosts(),
            coracle_spec::hosts_file(&hostname, &[]).as_bytes(),
        )?;
        match &config.dns {
            Some(dns) if *dns != coracle_types::pod::DnsConfig::default() => {
                write(&files.resolv_conf(), coracle_spec::resolv_conf(dns).as_bytes())
            }
            _ => {
                let host = fs::read(&self.parts.config.host_resolv_conf).unwrap_or_default();
                write(&files.resolv_conf(), &host)
            }
        }
    }

    async fn launch(&self) -> Result<Shim, EngineError> {
        let dir = self.dir();
        self.trace
            .step("run.shim", self.parts.shims.launch(&self.pod.id, &dir))
            .await
            .map_err(EngineError::from_cause("start the shim"))
    }

    /// Launches the shim and has the scope of the pod's init made, if it is to have one.
    async fn launch_with_scope(&self) -> Result<Shim, EngineError> {
        let shim = self.launch().await?;
        if self.pod.config.security.namespaces.pid == NamespaceMode::Pod {
            let cgroup = self.cgroup_of(self.pod.id.as_str());
            let scope = self.make_scope("run.scope", &shim, self.pod.id.as_str(), &cgroup, Vec::new());
            scope.await?;
        }
        Ok(shim)
    }

    async fn attach(&self) -> Result<Vec<IpAddr>, EngineError> {
        if !self.own_network() {
            return Ok(Vec::new());
        }
        let network = self.network();
        if self.user_namespace().is_none() {
            self.trace
                .step("run.netns", self.parts.networks.create_netns(&self.pod.id, None))
                .await
                .map_err(EngineError::from_cause("make the network namespace"))?;
        } else {
            self.trace
                .step("run.netns", self.parts.networks.set_up_loopback(&self.pod.id))
                .await
                .map_err(EngineError::from_cause("set up the network namespace"))?;
        }
        let attachment = self
            .trace
            .step("run.network", self.parts.networks.attach(network))
            .await
            .map_err(EngineError::from_cause("attach to the network"))?;
        Ok(attachment.ips)
    }

    async fn create_sandbox(&self, shim: &Shim) -> Result<(), EngineError> {
        let config = &self.pod.config;
        let namespaces = &config.security.namespaces;
        let files = self.files();
        let sysctls: BTreeMap<String, String> =
            coracle_spec::pod_sysctls(config, &HandlerDefaults::default())
                .map_err(EngineError::from_cause("run pod sandbox"))?;
        let own_ipc = namespaces.ipc != NamespaceMode::Node;
        let request = SandboxRequest {
            namespaces: NamespaceRequest {
                ipc: own_ipc,
                uts: self.own_network(),
                pid: namespaces.pid == NamespaceMode::Pod,
                user: self.user_namespace().cloned(),
                net: self.own_network() && self.user_namespace().is_some(),
            },
            pins: files.namespaces(),
            netns: self
                .own_network()
                .then(|| self.parts.networks.netns_path(&self.pod.id)),
            hostname: config.hostname.clone(),
            sysctls,
            cgroup: self.cgroup_of(self.pod.id.as_str()),
            user: sandbox_user(config),
            shm: own_ipc.then(|| (files.shm(), SHM_BYTES)),
        };
        self.trace
            .step("run.namespaces", shim.create_sandbox(request))
            .await
            .map_err(EngineError::from_cause("make the pod's namespaces"))?;
        Ok(())
    }

    /// StopPodSandbox: what runs is killed, then all that the ledger names goes, last first. A shim that
    /// dies meanwhile is replaced once; a second death is an accident that the caller hears of.
    pub(super) async fn tear_down(&self, shim: Option<Shim>) -> TornDown {
        use coracle_types::Kinded;

        let first = self.tear_down_by(shim).await;
        match &first.outcome {
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::warn!(pod = %self.pod.id, %error, "will be tried again");
            }
            _ => return first,
        }
        let mut second = self.tear_down_by(None).await;
        second.exits.extend(first.exits);
        second
    }

    /// Whether a shim may live or have left what another one must take over. It takes its files away as the
    /// last thing it does; the keeper makes the socket before it forks.
    fn shim_left_files(&self) -> bool {
        let dir = self.dir();
        ["shim.sock", "shim.json"]
            .iter()
            .any(|name| dir.join(name).exists())
    }

    async fn tear_down_by(&self, shim: Option<Shim>) -> TornDown {
        let entries = lock(&self.ledger).entries().to_vec();
        let mut failures = Vec::new();
        let shim = match shim {
            None if self.shim_left_files() || has_tasks(&entries) => match self.reconnect().await {
                Ok(shim) => Some(shim),
                Err(error) => {
                    // Containers keep their network; without any, nothing waits for the shim.
                    let network = if has_tasks(&entries) {
                        Ok(())
                    } else {
                        self.detach(&entries).await
                    };
                    failures.push(error);
                    failures.extend(network.err());
                    return TornDown {
                        exits: Vec::new(),
                        shim_gone: false,
                        outcome: gather("stop pod sandbox", &failures),
                    };
                }
            },
            None => {
                // Nothing was made by a shim, or one left after it had taken everything away.
                self.strike(&mut failures, |object| {
                    matches!(
                        object,
                        Object::Shim | Object::Namespaces { .. } | Object::Task { .. }
                    )
                });
                None
            }
            shim => shim,
        };
        let exits = match &shim {
            Some(shim) => {
                let end = self.end_tasks(shim, &entries, &mut failures);
                self.trace.watch("stop.containers", end).await
            }
            None => Vec::new(),
        };
        let (network, sandbox) = futures::join!(
            self.trace.watch("stop.network", self.detach(&entries)),
            self.trace.watch("stop.sandbox", self.end_sandbox(shim, &entries))
        );
        failures.extend(network.err());
        let shim_gone = sandbox.is_ok();
        failures.extend(sandbox.err());
        if shim_gone {
            let scopes = self.trace.watch("stop.scopes", self.end_scopes(|_| true));
            failures.extend(scopes.await.err());
        }
        TornDown {
            exits,
            shim_gone,
            outcome: gather("stop pod sandbox", &failures),
        }
    }

    async fn end_tasks(
        &self,
        shim: &Shim,
        entries: &[Object],
        failures: &mut Vec<EngineError>,
    ) -> Vec<(ContainerId, Exit)> {
        let ids: Vec<_> = entries
            .iter()
            .rev()
            .filter_map(|object| match object {
                Object::Task { container, .. } => Some(container.clone()),
                _ => None,
            })
            .collect();
        let ends = ids.into_iter().map(|id| async move {
            let end = self.end_task(shim, &id).await;
            (id, end)
        });
        let mut exits = Vec::new();
        for (id, end) in futures::future::join_all(ends).await {
            match end {
                Ok(exit) => {
                    exits.extend(exit.map(|exit| (id.clone(), exit)));
                    self.strike(
                        failures,
                        |object| matches!(object, Object::Task { container, .. } if *container == id),
                    );
                }
                Err(error) => failures.push(error),
            }
        }
        exits
    }

    async fn detach(&self, entries: &[Object]) -> Result<(), EngineError> {
        let mut failures = Vec::new();
        if entries
            .iter()
            .any(|object| matches!(object, Object::Attachment { .. }))
        {
            match self.parts.networks.detach(self.network()).await {
                Ok(()) => self.strike(&mut failures, |object| {
                    matches!(object, Object::Attachment { .. })
                }),
                Err(error) => failures.push(EngineError::from_cause("detach from the network")(error)),
            }
        }
        if entries
            .iter()
            .any(|object| matches!(object, Object::Netns { .. }))
        {
            match self.parts.networks.remove_netns(&self.pod.id).await {
                Ok(()) => self.strike(&mut failures, |object| matches!(object, Object::Netns { .. })),
                Err(error) => failures.push(EngineError::from_cause("remove the network namespace")(error)),
            }
        }
        gather("stop pod sandbox", &failures)
    }

    async fn end_sandbox(&self, shim: Option<Shim>, entries: &[Object]) -> Result<(), EngineError> {
        let Some(shim) = shim else { return Ok(()) };
        if has_tasks(entries)
            && lock(&self.ledger)
                .entries()
                .iter()
                .any(|object| matches!(object, Object::Task { .. }))
        {
            let message = format!(
                "the shim of pod sandbox {} stays for containers that would not end",
                self.pod.id
            );
            return Err(EngineError::new(
                Kind::FailedPrecondition,
                "stop pod sandbox",
                message,
            ));
        }
        let mut failures = Vec::new();
        shim.stop_sandbox()
            .await
            .map_err(EngineError::from_cause("remove the pod's namespaces"))?;
        self.remove_remains(&shim).await?;
        self.strike(&mut failures, |object| {
            matches!(object, Object::Namespaces { .. })
        });
        shim.shutdown()
            .await
            .map_err(EngineError::from_cause("end the shim"))?;
        if self.shim_left_files() {
            let message = format!(
                "the shim of pod sandbox {} died before it was through",
                self.pod.id
            );
            return Err(EngineError::new(Kind::Unavailable, "end the shim", message));
        }
        self.strike(&mut failures, |object| matches!(object, Object::Shim));
        gather("stop pod sandbox", &failures)
    }

    pub(super) fn strike(&self, failures: &mut Vec<EngineError>, gone: impl Fn(&Object) -> bool) {
        if let Err(error) = lock(&self.ledger).strike(gone) {
            failures.push(EngineError::from_cause("strike off what is gone")(error));
        }
    }

    /// RemovePodSandbox: after a stop, its containers with their writable layers, then all memory of it.
    pub(super) async fn remove(&self, shim: Option<Shim>, containers: Vec<Arc<ContainerRecord>>) -> TornDown {
        let mut torn_down = self.tear_down(shim).await;
        if torn_down.outcome.is_ok() {
            torn_down.outcome = self.forget(containers).await;
        }
        torn_down
    }

    async fn forget(&self, containers: Vec<Arc<ContainerRecord>>) -> Result<(), EngineError> {
        let mut failures = Vec::new();
        for container in &containers {
            failures.extend(self.forget_container(&container.id).await.err());
        }
        gather("remove pod sandbox", &failures)?;
        self.prune(containers.iter().map(AsRef::as_ref)).await;
        self.parts.records.remove_pod(&self.pod.id)
    }

    /// The layers of an image that was removed while a container stood on it or had it mounted: their bytes are
    /// free when the container's removal is answered.
    pub(super) async fn prune(&self, gone: impl Iterator<Item = &ContainerRecord>) {
        let images = &self.parts.images;
        let mut orphaned = gone.flat_map(ContainerRecord::images);
        if orphaned.any(|image| images.get(image.as_str()).is_none())
            && let Err(error) = images.prune_layers().await
        {
            tracing::warn!(pod = %self.pod.id, %error, "layers of a removed image stay until the next removal");
        }
    }

    /// Removes a container's writable layer, its bundle and all memory of it.
    pub(super) async fn forget_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (parts, container) = (Arc::clone(&self.parts), id.clone());
        let removal = tokio::task::spawn_blocking(move || {
            parts
                .snapshots
                .remove_writable(&container)
                .map_err(EngineError::from_cause("remove the writable layer"))?;
            parts.records.remove_container(&container)
        });
        self.trace
            .watch("remove.files", removal)
            .await
            .unwrap_or_else(|error| Err(interrupted("remove container", &error)))
    }
}

fn has_tasks(entries: &[Object]) -> bool {
    entries.iter().any(|object| matches!(object, Object::Task { .. }))
}

/// The blocking part of an operation was cut off: the daemon is leaving, or it panicked.
pub(crate) fn interrupted(operation: &'static str, error: &tokio::task::JoinError) -> EngineError {
    EngineError::new(Kind::Internal, operation, format!("interrupted: {error}"))
}

/// One failure as it is, several in one.
pub(crate) fn gather(operation: &'static str, failures: &[EngineError]) -> Result<(), EngineError> {
    use coracle_types::Kinded;

    match failures {
        [] => Ok(()),
        [one] => Err(one.clone()),
        [first, ..] => {
            let all: Vec<String> = failures.iter().map(ToString::to_string).collect();
            Err(EngineError::new(first.kind(), operation, all.join("; ")))
        }
    }
}

/// The node's id of what is 0 in a user namespace; `None` when nothing is.
fn root_of(ranges: &[coracle_types::security::IdMapping]) -> Option<u32> {
    let range = ranges
        .iter()
        .find(|range| range.container_id == 0 && range.length > 0)?;
    Some(range.host_id)
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// As whom the pod's init runs; ids were checked to be ids.
fn sandbox_user(config: &coracle_types::pod::PodSandboxConfig) -> (u32, u32) {
    let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
    (id(config.security.run_as_user), id(config.security.run_as_group))
}
