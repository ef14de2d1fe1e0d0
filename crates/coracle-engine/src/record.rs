//! What is remembered of pods and containers, on tmpfs at once and in the database soon after.
//!
//! The file beside the ledger (`<state>/pods/<id>/record.json`, `<state>/containers/<id>/record.json`)
//! is written before a request is answered: a daemon killed right after still knows what it said.
//! The database gets the same value in its next commit: what the kubelet will ask for after a reboot.

mod found;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coracle_snapshot::LayerId;
use coracle_store::{Store, StoreError, Table, Trouble};
use coracle_types::container::{ContainerConfig, ContainerState, Mount};
use coracle_types::format::Format;
use coracle_types::image::ImageSpec;
use coracle_types::pod::{PodSandboxConfig, PodSandboxState};
use coracle_types::resources::LinuxResources;
use coracle_types::signal::Signal;
use coracle_types::steps::Step;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Digest, Kind, PodSandboxId, RuntimeHandlerName};
use serde::{Deserialize, Serialize};

use crate::api::{ContainerStatus, ContainerSummary, PodSummary, ProcessUser};
use crate::error::EngineError;
use crate::policy::{ContainerPhase, PodPhase};

use self::found::merge;
pub(crate) use self::found::{Damaged, Found};

/// The format of records, of pods and of containers.
const FORMAT: u32 = 1;

/// A pod as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    /// A newer one is not read.
    #[serde(default)]
    pub(crate) format: Format<FORMAT>,
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
    /// Why nothing but its id and what it owns is known; it can only be removed.
    #[serde(default)]
    pub(crate) quarantine: Option<String>,
    /// What is on file is a newer program's, and this only what could be made of it.
    #[serde(skip)]
    pub(crate) left_alone: bool,
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

/// An image that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeImage {
    /// Its id.
    pub(crate) image: Digest,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<LayerId>,
}

/// A container as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// A newer one is not read.
    #[serde(default)]
    pub(crate) format: Format<FORMAT>,
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
    /// Images mounted in it, by container path.
    #[serde(default)]
    pub(crate) volumes: BTreeMap<String, VolumeImage>,
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
    /// What is on file is a newer program's, and this only what could be made of it.
    #[serde(skip)]
    pub(crate) left_alone: bool,
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
            mounts: self.mounts(),
            log_path: self
                .log_path
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            resources: self.resources.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
            info: BTreeMap::new(),
        }
    }

    /// As they were asked for, each image with the id that it had at the creation (CRI 1.37).
    fn mounts(&self) -> Vec<Mount> {
        let mut mounts = self.config.mounts.clone();
        for mount in &mut mounts {
            if let (Some(image), Some(volume)) = (&mut mount.image, self.volumes.get(&mount.container_path)) {
                image.image_ref = volume.image.to_string();
            }
        }
        mounts
    }

    /// Every image that it stands on or mounts.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Digest> {
        let volumes = self.volumes.values().map(|volume| &volume.image);
        std::iter::once(&self.image_id).chain(volumes)
    }

    fn image(&self) -> ImageSpec {
        self.config.image.clone()
    }
}

/// Where records are kept.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    state: PathBuf,
    store: Store,
    pods: Table<PodRecord>,
    containers: Table<ContainerRecord>,
}

impl Records {
    /// Records below the state directory and in the database.
    #[must_use]
    pub(crate) fn new(state: &Path, store: &Store) -> Self {
        Self {
            state: state.to_owned(),
            store: store.clone(),
            pods: store.table("pods"),
            containers: store.table("containers"),
        }
    }

    /// Why what is remembered does not reach the disk.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.store.trouble()
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

    /// Remembers a pod. What a newer program remembers of it stays as it is.
    ///
    /// # Errors
    /// When the file on tmpfs cannot be written.
    pub(crate) fn put_pod(&self, record: &PodRecord) -> Result<(), EngineError> {
        if record.left_alone {
            return Ok(());
        }
        write(&self.pod_dir(&record.id), record)?;
        self.pods
            .put(record.id.as_str(), record)
            .map_err(store_failed)?
            .later();
        Ok(())
    }

    /// Remembers a container. What a newer program remembers of it stays as it is.
    ///
    /// # Errors
    /// When the file on tmpfs cannot be written.
    pub(crate) fn put_container(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        if record.left_alone {
            return Ok(());
        }
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
        let pods = merge(&self.state.join("pods"), &self.pods, pod_lives)?;
        let containers = merge(&self.state.join("containers"), &self.containers, |_| false)?;
        Ok(Found {
            pods: pods.records,
            containers: containers.records,
            damaged_pods: pods.damaged,
            damaged_containers: containers.damaged,
            mended: pods.mended.into_iter().chain(containers.mended).collect(),
            on_file: pods.on_file.into_iter().chain(containers.on_file).collect(),
        })
    }

    /// Puts a pod's damaged file aside, for people to look at until the pod is removed.
    pub(crate) fn put_aside(&self, pod: &PodSandboxId) {
        let path = self.pod_dir(pod).join("record.json");
        // There may be none: what is damaged can be missing.
        let _ = fs::rename(&path, path.with_extension("damaged"));
    }
}

/// Whether a pod's directory holds what its shim or its ledger left there. A removal strikes everything off
/// before it removes the directory.
fn pod_lives(dir: &Path) -> bool {
    let ledger = fs::read(dir.join("ledger")).unwrap_or_default();
    let noted = !matches!(ledger.trim_ascii(), b"" | b"[]");
    noted
        || ["shim.sock", "shim.json"]
            .iter()
            .any(|name| dir.join(name).exists())
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
    let kind = Kind::of_exhaustion(error).unwrap_or(match error.kind() {
        io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
        _ => Kind::Internal,
    });
    EngineError::new(kind, operation, format!("{}: {error}", path.display()))
}

fn store_failed(error: StoreError) -> EngineError {
    EngineError::from_cause("remember")(error)
}

#[cfg(test)]
pub(crate) mod tests;
