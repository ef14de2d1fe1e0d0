//! Containers as a client asks for them (CRI `ContainerConfig`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::ImageSpec;
use crate::resources::LinuxResources;
use crate::security::{ContainerSecurityContext, IdMapping};
use crate::signal::Signal;

/// What the kubelet names a container by inside its pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// The container's name.
    pub name: String,
    /// How often it was made anew.
    pub attempt: u32,
}

/// Where a container is in its life (CRI `ContainerState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Started, not ended.
    Running,
    /// Ended.
    Exited,
    /// What became of it cannot be told.
    Unknown,
}

/// How mounts travel between host and container (CRI `MountPropagation`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Not at all.
    #[default]
    Private,
    /// From host to container (rslave).
    HostToContainer,
    /// Both ways (rshared).
    Bidirectional,
}

/// A directory or file of the host, or an image, inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where inside.
    pub container_path: String,
    /// What of the host; empty with `image`.
    pub host_path: String,
    /// Read-only.
    pub readonly: bool,
    /// Read-only below, too; an error where the kernel cannot.
    pub recursive_read_only: bool,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// How mounts below travel.
    pub propagation: MountPropagation,
    /// Id mapping of users.
    pub uid_mappings: Vec<IdMapping>,
    /// Id mapping of groups.
    pub gid_mappings: Vec<IdMapping>,
    /// The image whose content is mounted instead of a host path.
    pub image: Option<ImageSpec>,
    /// A path below the image's root.
    pub image_sub_path: String,
    /// Further options (CRI 1.37).
    pub mount_options: Vec<String>,
}

/// A device of the host inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where inside.
    pub container_path: String,
    /// Which of the host.
    pub host_path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A container as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Who it is.
    pub metadata: ContainerMetadata,
    /// What it is made of.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Added to the image's environment; values are bytes and may not be UTF-8.
    pub envs: Vec<(String, Vec<u8>)>,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Fully qualified names of devices by the Container Device Interface.
    pub cdi_devices: Vec<String>,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// Opaque.
    pub annotations: BTreeMap<String, String>,
    /// Below the pod's log directory; empty for no log.
    pub log_path: String,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close it after the first client.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// Limits.
    pub resources: LinuxResources,
    /// Security.
    pub security: ContainerSecurityContext,
    /// Signal of StopContainer; `None` takes the image's, then TERM.
    pub stop_signal: Option<Signal>,
}

/// How a process ended: `code` is 0..255, 128 + N after signal N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code as a shell counts it.
    pub code: i32,
    /// When, by the wall clock.
    pub at: crate::time::UnixNanos,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// Whether the status went with the processes that knew it: `code` is then 255, `at` when that was found.
    #[serde(default)]
    pub lost: bool,
}
