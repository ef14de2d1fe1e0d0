//! Start of the engine: what an earlier daemon left is taken up again, or put away.

mod damaged;
mod home;
mod last_words;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use coracle_image::{Images, ImagesConfig};
use coracle_network::{Networks, NetworksConfig};
use coracle_snapshot::Snapshotter;
use coracle_spec::{AppArmor, CgroupVersion, Host};
use coracle_store::Store;
use coracle_systemd::{SliceName, Systemd, UnitName, Way};
use coracle_task::{Shims, ShimsConfig};
use coracle_types::{ContainerId, Kind, PodSandboxId};

use crate::api::{CgroupDriver, IdPrefix};
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::events::Events;
use crate::index::Index;
use crate::parts::Parts;
use crate::pod::{self, Beginning, Request, gather};
use crate::policy::{ContainerPhase, PodPhase};
use crate::record::{ContainerRecord, Damaged, Found, PodRecord, Records, close_to_others, make_private_dir};
use crate::stats::Readers;

const OPERATION: &str = "start the engine";

/// Configurations of the crates below.
pub struct NodeConfig {
    /// The engine's own.
    pub engine: EngineConfig,
    /// Of images and registries.
    pub images: ImagesConfig,
    /// Of pod networks.
    pub networks: NetworksConfig,
    /// Of keeper and shims.
    pub shims: ShimsConfig,
}

impl Engine {
    /// Opens what is on disk, finds the keeper or starts one, and takes up the pods of an earlier daemon.
    /// Pods whose shim must first be reached answer when it is; none is in another's way.
    ///
    /// # Errors
    /// When a directory cannot be used, another daemon has it, or no keeper can be had.
    pub async fn start(
        config: NodeConfig,
        store: Store,
        snapshots: Arc<dyn Snapshotter>,
    ) -> Result<Arc<Self>, EngineError> {
        let NodeConfig {
            engine: config,
            images,
            networks,
            shims,
        } = config;
        close_to_others(&config.root)?;
        close_to_others(&config.state)?;
        for directory in ["", "pods", "containers"] {
            make_private_dir(&config.state.join(directory))?;
        }
        let systemd = Arc::new(Systemd::at(Way::default()));
        let host = Host::probe();
        check_driver(&config, &host, &systemd).await?;
        let shims = home::of_keeper(shims, &config, &systemd).await;
        let profile = config
            .apparmor_profile
            .clone()
            .filter(|_| host.apparmor == AppArmor::Enabled);
        let (apparmor, images, networks, shims) = futures::try_join!(
            async {
                let provided = tokio::task::spawn_blocking(|| profile.and_then(provide_profile));
                Ok(provided.await.unwrap_or_default())
            },
            async {
                Images::open(images)
                    .await
                    .map_err(EngineError::from_cause("open the images"))
            },
            async {
                Networks::start(networks)
                    .await
                    .map_err(EngineError::from_cause("start the networks"))
            },
            async {
                Shims::start(shims)
                    .await
                    .map_err(EngineError::from_cause("start the keeper"))
            },
        )?;
        let records = Records::new(&config.state, &store);
        let parts = Arc::new(Parts {
            boot: boot_id()?,
            host,
            apparmor,
            systemd,
            config,
            images,
            snapshots,
            networks,
            shims,
            records,
            index: Index::default(),
            operations: Arc::default(),
            events: Events::default(),
            readers: Readers::default(),
        });
        recover(&parts, &store).await?;
        Ok(Arc::new(Self { parts }))
    }

    /// Takes the node down: removes every pod, then what the instance owns beside pods, and has the keeper
    /// leave. For an engine that ends with its pods.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn remove_node(&self) -> Result<(), EngineError> {
        let pods = self.parts.index.pods(&IdPrefix::default());
        let removals = pods.iter().map(|handle| handle.ask(Request::Remove));
        let mut failures: Vec<_> = futures::future::join_all(removals)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect();
        self.settle().await;
        let networks = self.parts.networks.remove_instance_objects().await;
        failures.extend(
            networks
                .err()
                .map(EngineError::from_cause("remove the node's network")),
        );
        let keeper = self.parts.shims.retire().await;
        failures.extend(keeper.err().map(EngineError::from_cause("end the keeper")));
        if self.parts.config.cgroup_driver == CgroupDriver::Systemd
            && let Ok(slice) = SliceName::of_path(&self.parts.config.default_cgroup_parent)
        {
            let stopped = self.parts.systemd.stop(&UnitName::from(&slice)).await;
            failures.extend(
                stopped
                    .err()
                    .map(EngineError::from_cause("put away the default slice")),
            );
        }
        gather("remove the node", &failures)
    }

    /// Returns when what was deferred is done: for a shutdown that leaves nothing of removed pods.
    pub async fn settle(&self) {
        self.parts.networks.settle().await;
    }
}

/// Sees to it that the AppArmor profile `wanted` can be used: the own one is put into the kernel, over that of an
/// older program; containers that run keep its name and get its new rules. Gives `None` when it cannot be: pods
/// that no profile confines beat no pods.
fn provide_profile(wanted: String) -> Option<String> {
    if wanted == coracle_spec::APPARMOR_PROFILE
        && let Err(error) = coracle_container::apparmor::load(&coracle_spec::apparmor_profile())
    {
        tracing::warn!(
            %error,
            "containers run without an AppArmor profile: install apparmor, or name a loaded profile in \
             container.apparmor_profile"
        );
        return None;
    }
    Some(wanted)
}

/// The driver `systemd` needs systemd, and a hierarchy in which a part can be given to somebody else.
async fn check_driver(config: &EngineConfig, host: &Host, systemd: &Systemd) -> Result<(), EngineError> {
    if config.cgroup_driver != CgroupDriver::Systemd {
        return Ok(());
    }
    if host.cgroup == CgroupVersion::V1 {
        let message = "cgroup.driver \"systemd\" needs cgroup v2 alone, and this node mounts hierarchies of v1: write \
                       \"cgroupfs\", or boot with systemd.unified_cgroup_hierarchy=1";
        return Err(EngineError::new(Kind::FailedPrecondition, OPERATION, message));
    }
    systemd
        .reach()
        .await
        .map_err(|error| EngineError::from_cause(OPERATION)(error).about("cgroup.driver \"systemd\""))
}

async fn recover(parts: &Arc<Parts>, store: &Store) -> Result<(), EngineError> {
    let mut found = parts.records.all()?;
    let (pods, containers) = found.take_removed(&parts.boot);
    let forgotten = pods.iter().map(|id| parts.records.remove_pod(id));
    let forgotten = forgotten.chain(containers.iter().map(|id| parts.records.remove_container(id)));
    for error in forgotten.filter_map(Result::err) {
        tracing::warn!(%error, "what was removed is still remembered");
    }
    quarantine(parts, &mut found);
    if store.replaced().is_some() {
        remember_again(parts, &found);
    }
    let mut by_pod: BTreeMap<PodSandboxId, Vec<ContainerRecord>> = BTreeMap::new();
    for container in found.containers {
        by_pod.entry(container.pod.clone()).or_default().push(container);
    }
    let (mut pods, mut containers, mut of_this_boot) = (HashSet::new(), HashSet::new(), Vec::new());
    for pod in found.pods {
        pods.insert(pod.id.clone());
        if pod.boot == parts.boot {
            of_this_boot.push(pod.id.clone());
        }
        let of_pod = by_pod.remove(&pod.id).unwrap_or_default();
        containers.extend(of_pod.iter().map(|record| record.id.clone()));
        take_up(parts, pod, of_pod);
    }
    put_away(parts, &pods, &containers);
    for orphan in by_pod.into_values().flatten() {
        if let Err(error) = parts.records.remove_container(&orphan.id) {
            tracing::warn!(container = %orphan.id, %error, "a container of no pod is still remembered");
        }
    }
    // A pod of another boot has no network any more, only addresses that nobody else gets.
    if let Err(error) = parts.networks.gc(&of_this_boot).await {
        tracing::warn!(%error, "addresses of pods that are gone may still be reserved");
    }
    Ok(())
}

/// Gives what is damaged the form of a record that can be listed and removed.
fn quarantine(parts: &Parts, found: &mut Found) {
    for mended in std::mem::take(&mut found.mended) {
        tracing::warn!(
            id = mended.id,
            reason = mended.reason,
            "a damaged record is read from the database"
        );
    }
    for pod in std::mem::take(&mut found.damaged_pods) {
        tracing::error!(
            pod = pod.id,
            reason = pod.reason,
            "a pod is in quarantine: see `coracle audit`"
        );
        found.pods.extend(damaged::pod(parts, &pod));
    }
    let lost = std::mem::take(&mut found.damaged_containers);
    if lost.is_empty() {
        return;
    }
    let owners = damaged::owners(parts, found.pods.iter().map(|pod| &pod.id));
    for container in lost {
        let id = container.id.parse::<ContainerId>().ok();
        // One of no pod is put away with what else is nobody's.
        let Some((pod, cgroup)) = id.and_then(|id| owners.get(&id)) else {
            continue;
        };
        found
            .containers
            .extend(damaged::container(pod, cgroup, &container));
        let Damaged {
            id, reason, newer, ..
        } = container;
        if newer {
            tracing::error!(
                container = id,
                reason,
                "its pod is in quarantine: see `coracle audit`"
            );
            quarantine_owner(parts, found, pod, &format!("container {id}: {reason}"));
        } else {
            tracing::error!(
                container = id,
                reason,
                "a container's record is damaged: it is ended"
            );
        }
    }
}

/// A pod of which one container is not known is not known itself.
fn quarantine_owner(parts: &Parts, found: &mut Found, pod: &PodSandboxId, reason: &str) {
    let stub = damaged::pod(
        parts,
        &Damaged {
            id: pod.to_string(),
            reason: reason.to_owned(),
            on_file: true,
            newer: true,
        },
    );
    let known = found.pods.iter_mut().find(|known| known.id == *pod);
    if let (Some(known), Some(stub)) = (known, stub)
        && known.quarantine.is_none()
    {
        *known = stub;
    }
}

/// The database was begun anew: what this boot's files tell is in it again.
fn remember_again(parts: &Parts, found: &Found) {
    let pods = found.pods.iter().map(|pod| parts.records.put_pod(pod));
    let containers = found
        .containers
        .iter()
        .map(|record| parts.records.put_container(record));
    for error in pods.chain(containers).filter_map(Result::err) {
        tracing::warn!(%error, "a record is not in the new database until it changes");
    }
}

/// Enters a pod and its containers and begins what their state asks for. A pod that cannot be taken up is
/// named and never in the way of others.
fn take_up(parts: &Arc<Parts>, mut pod: PodRecord, mut containers: Vec<ContainerRecord>) {
    let this_boot = pod.boot == parts.boot;
    let beginning = match pod.phase {
        _ if !this_boot => {
            for container in &mut containers {
                // On file at once: the end that was told first is the one that stays.
                if last_words::end_with_the_boot(container)
                    && let Err(error) = parts.records.put_container(container)
                {
                    tracing::warn!(container = %container.id, %error, "its end is not on file");
                }
            }
            pod.phase = PodPhase::Stopped;
            // Addresses outlive a boot: they are given back.
            Beginning::Stop
        }
        _ if pod.quarantine.is_some() => Beginning::Adopt,
        PodPhase::Starting | PodPhase::Removing => Beginning::Clean,
        PodPhase::Ready => Beginning::Adopt,
        PodPhase::Draining | PodPhase::Stopping | PodPhase::Stopped => Beginning::Stop,
    };
    for container in &mut containers {
        container.phase = settled(container.phase);
    }
    let (id, name) = (pod.id.clone(), pod.config.metadata.clone());
    let ids: Vec<ContainerId> = containers.iter().map(|record| record.id.clone()).collect();
    match parts
        .index
        .reserve(&name, || pod::spawn(parts, pod, containers, beginning))
    {
        Ok(crate::index::Reserved::New) => {
            for container in ids {
                parts.index.insert_container(&container, &id);
            }
        }
        Ok(crate::index::Reserved::Taken(other)) => {
            tracing::error!(pod = %id, other = %other.id(), "two records claim one name: the later is left alone");
        }
        Err(error) => tracing::error!(pod = %id, %error, "the pod cannot be taken up: see `coracle audit`"),
    }
}

/// Where a container is when the operation that its phase stands for died with the daemon.
fn settled(phase: ContainerPhase) -> ContainerPhase {
    match phase {
        // The shim is asked after starts that the ledger notes.
        ContainerPhase::Creating | ContainerPhase::Starting => ContainerPhase::Created,
        ContainerPhase::Stopping => ContainerPhase::Running,
        ContainerPhase::Removing => ContainerPhase::Exited,
        resting @ (ContainerPhase::Created | ContainerPhase::Running | ContainerPhase::Exited) => resting,
    }
}

/// Removes directories whose owner was never recorded or is forgotten.
fn put_away(parts: &Parts, pods: &HashSet<PodSandboxId>, containers: &HashSet<ContainerId>) {
    remove_strangers(&parts.config.state.join("pods"), |name| {
        name.parse().is_ok_and(|id| pods.contains(&id))
    });
    remove_strangers(&parts.config.state.join("containers"), |name| {
        name.parse().is_ok_and(|id| containers.contains(&id))
    });
    for id in parts.snapshots.writables() {
        if !containers.contains(&id)
            && let Err(error) = parts.snapshots.remove_writable(&id)
        {
            tracing::warn!(container = %id, %error, "a writable layer of nobody's stays");
        }
    }
}

fn remove_strangers(directory: &Path, known: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !known(&entry.file_name().to_string_lossy())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a directory of nobody's stays");
        }
    }
}

fn boot_id() -> Result<String, EngineError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path)
        .map_err(|error| EngineError::new(Kind::Internal, OPERATION, format!("read {path}: {error}")))?;
    Ok(text.trim().to_owned())
}
