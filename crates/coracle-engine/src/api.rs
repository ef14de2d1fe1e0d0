//! What the engine is asked and what it answers, in the project's own types.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use coracle_types::container::{ContainerMetadata, ContainerState, Mount};
use coracle_types::image::{Credentials, ImageSpec};
use coracle_types::pod::{PodSandboxConfig, PodSandboxMetadata, PodSandboxState};
use coracle_types::resources::LinuxResources;
use coracle_types::security::NamespaceOptions;
use coracle_types::signal::Signal;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Digest, PodSandboxId, RuntimeHandlerName};
use serde::{Deserialize, Serialize};

/// An id as a client wrote it: whole, or any unique beginning of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdPrefix(pub String);

/// A pod sandbox in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSummary {
    /// Its id.
    pub id: PodSandboxId,
    /// Its name, namespace, uid and attempt.
    pub metadata: PodSandboxMetadata,
    /// Ready or not.
    pub state: PodSandboxState,
    /// When RunPodSandbox was accepted.
    pub created_at: UnixNanos,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
    /// As given.
    pub handler: RuntimeHandlerName,
}

/// A pod sandbox, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// What lists show.
    pub summary: PodSummary,
    /// Its addresses, the primary one first; empty with the host's network.
    pub ips: Vec<IpAddr>,
    /// Its namespaces, as asked for.
    pub namespaces: NamespaceOptions,
    /// Its containers.
    pub containers: Vec<ContainerStatus>,
    /// When this was true.
    pub timestamp: UnixNanos,
    /// For people, when asked for: topic to JSON text.
    pub info: BTreeMap<String, String>,
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodSandboxId,
    /// Its name and attempt.
    pub metadata: ContainerMetadata,
    /// The image as the client named it.
    pub image: ImageSpec,
    /// The image's id (digest of its config).
    pub image_id: Digest,
    /// Where in its life.
    pub state: ContainerState,
    /// When CreateContainer was accepted.
    pub created_at: UnixNanos,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
}

/// A container, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// What lists show.
    pub summary: ContainerSummary,
    /// 0 before the start.
    pub started_at: UnixNanos,
    /// 0 before the end.
    pub finished_at: UnixNanos,
    /// 0..255; 128 + N after signal N.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or empty while it lives.
    pub reason: String,
    /// For people.
    pub message: String,
    /// As asked for.
    pub mounts: Vec<Mount>,
    /// On the host; empty for none.
    pub log_path: String,
    /// In force.
    pub resources: LinuxResources,
    /// User, group and further groups of its first process.
    pub user: ProcessUser,
    /// What StopContainer sends.
    pub stop_signal: Signal,
    /// For people, when asked for: topic to JSON text.
    pub info: BTreeMap<String, String>,
}

/// Ids that a process runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// Which pods to list; all that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct PodFilter {
    /// Id or its beginning; empty is any.
    pub id: IdPrefix,
    /// State.
    pub state: Option<PodSandboxState>,
    /// Labels that must be there with these values.
    pub labels: BTreeMap<String, String>,
}

/// Which containers to list; all that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// Id or its beginning; empty is any.
    pub id: IdPrefix,
    /// Id of the pod or its beginning; empty is any.
    pub pod: IdPrefix,
    /// State.
    pub state: Option<ContainerState>,
    /// Labels that must be there with these values.
    pub labels: BTreeMap<String, String>,
}

/// Whether statuses carry what is meant for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// What a program needs.
    #[default]
    Plain,
    /// And topics for people.
    Verbose,
}

/// A command in a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecSync {
    /// Program and arguments.
    pub command: Vec<String>,
    /// After which its whole process tree is killed; `None` is never.
    pub timeout: Option<Duration>,
}

/// What a command in a container left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// At most 16 MB; the rest is dropped.
    pub stdout: Vec<u8>,
    /// Likewise.
    pub stderr: Vec<u8>,
    /// 0..255; 128 + N after signal N.
    pub code: i32,
}

/// A pull as a client asks for it.
#[derive(Debug, Clone, Default)]
pub struct PullImage {
    /// What to pull.
    pub image: ImageSpec,
    /// With which credentials.
    pub credentials: Option<Credentials>,
    /// The pod it is for.
    pub sandbox: Option<PodSandboxConfig>,
}

/// Which images are to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneImages {
    /// Also those that have a tag.
    pub all: bool,
    /// Only those that came before.
    pub before: Option<UnixNanos>,
    /// Only tell.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// The images.
    pub images: Vec<std::sync::Arc<coracle_image::Image>>,
    /// Bytes that are free by it.
    pub bytes: u64,
    /// Inodes likewise.
    pub inodes: u64,
}

/// One condition of the runtime (`RuntimeReady`, `NetworkReady`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why not, in one word.
    pub reason: String,
    /// Why not and what to do.
    pub message: String,
}

/// What pods of a runtime handler can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// The handler; empty is the default.
    pub name: RuntimeHandlerName,
    /// Mounts that are read-only below, too (kernel 5.12).
    pub recursive_read_only_mounts: bool,
    /// Pods with a user namespace (kernel 5.19 for overlay on id-mapped layers).
    pub user_namespaces: bool,
}

/// The runtime as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// RuntimeReady and NetworkReady.
    pub conditions: Vec<Condition>,
    /// By handler.
    pub handlers: Vec<HandlerFeatures>,
    /// For people, when asked for: topic to JSON text.
    pub info: BTreeMap<String, String>,
}

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd, over D-Bus.
    Systemd,
    /// This program, in the cgroup file system.
    #[default]
    Cgroupfs,
}

/// Space used below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// The directory that stands for the file system.
    pub mountpoint: PathBuf,
    /// Bytes, by blocks.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes_used: u64,
    /// When this was true.
    pub timestamp: UnixNanos,
}

/// Space of images and of writable layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFsInfo {
    /// Layers of images.
    pub images: FsUsage,
    /// Writable layers of containers.
    pub containers: FsUsage,
}

/// How the kernel differs from the ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// It is there and nobody's.
    Leaked,
    /// It is somebody's and not there.
    Missing,
}

/// One thing that `audit` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Leaked or missing.
    pub difference: Difference,
    /// What sort of object: `mount`, `netns`, `cgroup`, `address`, `directory`, ...
    pub kind: String,
    /// Which.
    pub object: String,
    /// The pod or container it belongs to, when known.
    pub owner: String,
    /// What to do.
    pub remedy: String,
}
