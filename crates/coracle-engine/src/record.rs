//! What is remembered of pods and containers, on tmpfs at once and in the database soon after.
//!
//! The file beside the ledger (`<state>/pods/<id>/record.json`, `<state>/containers/<id>/record.json`)
//! is written before a request is answered: a daemon killed right after still knows what it said.
//! The database gets the same value in its next commit: what the kubelet will ask for after a reboot.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coracle_snapshot::LayerId;
use coracle_store::{Store, StoreError, Table};
use coracle_types::container::{ContainerConfig, ContainerState};
use coracle_types::image::ImageSpec;
use coracle_types::pod::{PodSandboxConfig, PodSandboxState};
use coracle_types::resources::LinuxResources;
use coracle_types::signal::Signal;
use coracle_types::steps::Step;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Digest, Kind, PodSandboxId, RuntimeHandlerName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::{ContainerStatus, ContainerSummary, PodSummary, ProcessUser};
use crate::error::EngineError;
use crate::policy::{ContainerPhase, PodPhase};

/// A pod as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// Its id.
    pub(crate) id: PodSandboxId,
    /// As it was asked for.
    pub(crate) config: PodSandboxConfig,
    /// As it was asked for.
    pub(crate) handler: RuntimeHandlerName,
    /// When RunPodSandbox was accepted.
    pub(crate) created_at: UnixNanos,
    /// Where in its life.
    pub(crate) phase: PodPhase,
    /// Its addresses, the primary one first.
    pub(crate) ips: Vec<IpAddr>,
    /// Where its network namespace is pinned; `None` with the host's network.
    pub(crate) netns: Option<PathBuf>,
    /// The boot it lived in: the kernel objects of another one are gone.
    pub(crate) boot: String,
    /// How its start went.
    pub(crate) steps: Vec<Step>,
}

impl PodRecord {
    /// As CRI counts states.
    #[must_use]
    pub(crate) fn state(&self) -> PodSandboxState {
        if self.phase == PodPhase::Ready {
            PodSandboxState::Ready
        } else {
            PodSandboxState::NotReady
        }
    }

    /// As lists show it.
    #[must_use]
    pub(crate) fn summary(&self) -> PodSummary {
        PodSummary {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            handler: self.handler.clone(),
        }
    }
}

/// A container as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Its pod.
    pub(crate) pod: PodSandboxId,
    /// As it was asked for.
    pub(crate) config: ContainerConfig,
    /// The image's id.
    pub(crate) image_id: Digest,
    /// Layers of its root file system, bottom first.
    pub(crate) layers: Vec<LayerId>,
    /// Absolute path of its cgroup in each hierarchy.
    pub(crate) cgroup: String,
    /// User of its first process.
    pub(crate) user: ProcessUser,
    /// What StopContainer sends.
    pub(crate) stop_signal: Signal,
    /// Of its log on the host; `None` for no log.
    pub(crate) log_path: Option<PathBuf>,
    /// Limits in force.
    pub(crate) resources: LinuxResources,
    /// Where in its life.
    pub(crate) phase: ContainerPhase,
    /// Its first process, from the start on.
    pub(crate) pid: Option<u32>,
    /// When CreateContainer was accepted.
    pub(crate) created_at: UnixNanos,
    /// When its first process ran; 0 before.
    pub(crate) started_at: UnixNanos,
    /// When its first process ended; 0 before.
    pub(crate) finished_at: UnixNanos,
    /// How.
    pub(crate) exit_code: i32,
    /// In CRI's words.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

impl ContainerRecord {
    /// As CRI counts states.
    #[must_use]
    pub(crate) fn state(&self) -> ContainerState {
        match self.phase {
            ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Starting => {
                ContainerState::Created
            }
            ContainerPhase::Running | ContainerPhase::Stopping => ContainerState::Running,
            ContainerPhase::Exited | ContainerPhase::Removing => ContainerState::Exited,
        }
    }

    /// As lists show it.
    #[must_use]
    pub(crate) fn summary(&self) -> ContainerSummary {
        ContainerSummary {
            id: self.id.clone(),
            pod: self.pod.clone(),
            metadata: self.config.metadata.clone(),
            image: self.image(),
            image_id: self.image_id.clone(),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
        }
    }

    /// Whole.
    #[must_use]
    pub(crate) fn status(&self) -> ContainerStatus {
        ContainerStatus {
            summary: self.summary(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            reason: self.reason.clone(),
            message: self.message.clone(),
            mounts: self.config.mounts.clone(),
            log_path: self
                .log_path
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            resources: self.resources.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
            info: std::collections::BTreeMap::new(),
        }
    }

    fn image(&self) -> ImageSpec {
        self.config.image.clone()
    }
}

/// Where records are kept.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    state: PathBuf,
    pods: Table<PodRecord>,
    containers: Table<ContainerRecord>,
}

/// What was found at start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Pods by id, as of this boot where there is a file, else as of the database.
    pub(crate) pods: Vec<PodRecord>,
    /// Containers likewise.
    pub(crate) containers: Vec<ContainerRecord>,
    /// Records that cannot be read, with the reason: reported and left alone.
    pub(crate) damaged: Vec<String>,
    /// Ids that have a file, readable or not.
    on_file: HashSet<String>,
}

impl Found {
    /// Takes out the pods and containers that were removed when the daemon died before the database heard
    /// of it. What lives in this boot has a file: it is written first and removed last.
    pub(crate) fn take_removed(&mut self, boot: &str) -> (Vec<PodSandboxId>, Vec<ContainerId>) {
        let on_file = &self.on_file;
        let of_this_boot = self.pods.iter().filter(|pod| pod.boot == boot);
        let booted: HashSet<_> = of_this_boot.map(|pod| pod.id.clone()).collect();
        let is_gone = |pod: &PodSandboxId, id: &str| booted.contains(pod) && !on_file.contains(id);
        let containers = self
            .containers
            .extract_if(.., |record| is_gone(&record.pod, record.id.as_str()))
            .map(|record| record.id);
        let containers = containers.collect();
        let pods = self
            .pods
            .extract_if(.., |pod| is_gone(&pod.id, pod.id.as_str()))
            .map(|pod| pod.id);
        (pods.collect(), containers)
    }
}

impl Records {
    /// Records below the state directory and in the database.
    #[must_use]
    pub(crate) fn new(state: &Path, store: &Store) -> Self {
        Self {
            state: state.to_owned(),
            pods: store.table("pods"),
            containers: store.table("containers"),
        }
    }

    /// The directory of a pod's volatile state.
    #[must_use]
    pub(crate) fn pod_dir(&self, id: &PodSandboxId) -> PathBuf {
        self.state.join("pods").join(id.as_str())
    }

    /// The directory of a container's volatile state: its bundle.
    #[must_use]
    pub(crate) fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.state.join("containers").join(id.as_str())
    }

    /// Remembers a pod.
    ///
    /// # Errors
    /// When the file on tmpfs cannot be written.
    pub(crate) fn put_pod(&self, record: &PodRecord) -> Result<(), EngineError> {
        write(&self.pod_dir(&record.id), record)?;
        self.pods
            .put(record.id.as_str(), record)
            .map_err(store_failed)?
            .later();
        Ok(())
    }

    /// Remembers a container.
    ///
    /// # Errors
    /// When the file on tmpfs cannot be written.
    pub(crate) fn put_container(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        write(&self.bundle(&record.id), record)?;
        self.containers
            .put(record.id.as_str(), record)
            .map_err(store_failed)?
            .later();
        Ok(())
    }

    /// Forgets a pod and removes its directory.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub(crate) fn remove_pod(&self, id: &PodSandboxId) -> Result<(), EngineError> {
        self.pods.remove(id.as_str()).later();
        remove(&self.pod_dir(id))
    }

    /// Forgets a container and removes its bundle.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub(crate) fn remove_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.containers.remove(id.as_str()).later();
        remove(&self.bundle(id))
    }

    /// All that is remembered: what is on tmpfs is of this boot and newer than the database.
    ///
    /// # Errors
    /// When the database as a whole cannot be read.
    pub(crate) fn all(&self) -> Result<Found, EngineError> {
        let mut found = Found::default();
        let (damaged, on_file) = (&mut found.damaged, &mut found.on_file);
        found.pods = merge(&self.state.join("pods"), &self.pods, damaged, on_file)?;
        found.containers = merge(&self.state.join("containers"), &self.containers, damaged, on_file)?;
        Ok(found)
    }
}

fn merge<V: Serialize + DeserializeOwned>(
    dir: &Path,
    table: &Table<V>,
    damaged: &mut Vec<String>,
    on_file: &mut HashSet<String>,
) -> Result<Vec<V>, EngineError> {
    let mut records = std::collections::BTreeMap::new();
    for (key, value) in table.all().map_err(store_failed)? {
        match value {
            Ok(value) => {
                records.insert(key, value);
            }
            Err(reason) => damaged.push(format!("{key} in the database: {reason}")),
        }
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path().join("record.json");
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.exists() {
            on_file.insert(name.clone());
        }
        let read = fs::read(&path).map(|text| serde_json::from_slice::<V>(&text));
        match read {
            Ok(Ok(value)) => {
                records.insert(name, value);
            }
            Ok(Err(error)) => damaged.push(format!("{}: {error}", path.display())),
            // A directory without a record: its making was cut; recovery removes it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => damaged.push(format!("{}: {error}", path.display())),
        }
    }
    Ok(records.into_values().collect())
}

/// Makes a directory of ours: nobody but root may look in.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), EngineError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| io_failed("make", path, &error))
}

/// Has a directory of ours, old or new, that nobody but root may look into (classes CVE-2021-41103,
/// CVE-2024-25621).
///
/// # Errors
/// When the file system refuses.
pub(crate) fn close_to_others(path: &Path) -> Result<(), EngineError> {
    make_private_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|error| io_failed("close", path, &error))
}

fn write<V: Serialize>(dir: &Path, record: &V) -> Result<(), EngineError> {
    let path = dir.join("record.json");
    let text = serde_json::to_vec(record).map_err(|error| {
        EngineError::new(Kind::Internal, "remember", format!("{}: {error}", path.display()))
    })?;
    make_private_dir(dir)?;
    coracle_store::replace(&path, &text).map_err(|error| io_failed("write", &path, &error))
}

fn remove(dir: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_failed("remove", dir, &error)),
        _ => Ok(()),
    }
}

/// A failure of the file system on a path of ours.
pub(crate) fn io_failed(operation: &'static str, path: &Path, error: &io::Error) -> EngineError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
        io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
        _ => Kind::Internal,
    };
    EngineError::new(kind, operation, format!("{}: {error}", path.display()))
}

fn store_failed(error: StoreError) -> EngineError {
    EngineError::from_cause("remember")(error)
}

#[cfg(test)]
pub(crate) mod tests;
