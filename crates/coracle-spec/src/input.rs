//! What a container's specification is made from.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use coracle_types::container::ContainerConfig;
use coracle_types::pod::PodSandboxConfig;
use coracle_types::security::SecurityProfile;
use coracle_types::{ContainerId, PodSandboxId};
use oci_spec::runtime::PosixRlimit;
use serde::{Deserialize, Deserializer, Serialize};

use crate::host::Host;
use crate::users::ResolvedUser;

/// Everything that [`crate::container_spec`] looks at. Pod and container must have passed
/// [`crate::validate_pod`] and [`crate::validate_container`].
#[derive(Debug, Clone, Copy)]
pub struct ContainerInput<'a> {
    /// The container to be.
    pub id: &'a ContainerId,
    /// Its pod.
    pub pod_id: &'a PodSandboxId,
    /// The pod as it was asked for.
    pub pod: &'a PodSandboxConfig,
    /// The container as it was asked for.
    pub container: &'a ContainerConfig,
    /// What the image says of itself.
    pub image: &'a ImageSettings,
    /// Whom it runs as, from [`crate::resolve_user`].
    pub user: &'a ResolvedUser,
    /// Where the pod's things are.
    pub paths: &'a Paths,
    /// Absolute in every hierarchy (cgroupfs), or `slice:prefix:name` (systemd).
    pub cgroup_path: &'a str,
    /// What the runtime handler adds to every container.
    pub defaults: &'a HandlerDefaults,
    /// What this node offers.
    pub host: &'a Host,
}

/// The part of an image's configuration that concerns a container (OCI image specification,
/// config.md, `config`). Reads the JSON as it stands in the image: `null` is absence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageSettings {
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// What to run.
    #[serde(deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what to run when there is no entrypoint.
    #[serde(deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Where to run it.
    #[serde(deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid` and mixtures.
    #[serde(deserialize_with = "null_is_empty")]
    pub user: String,
    /// Directories that stay writable in a read-only root; only the keys mean something.
    #[serde(deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Name or number.
    #[serde(deserialize_with = "null_is_empty")]
    pub stop_signal: String,
    /// Opaque.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Where on the node the pod's namespaces and files are; `None` where the pod has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Pinned network namespace; `None` with the host's network.
    pub netns: Option<PathBuf>,
    /// Pinned IPC namespace; `None` with the host's.
    pub ipc: Option<PathBuf>,
    /// Pinned UTS namespace; `None` with the host's network.
    pub uts: Option<PathBuf>,
    /// The PID namespace to join: the pod's, or the target container's with mode `Target`.
    pub pid: Option<PathBuf>,
    /// The pod's user namespace.
    pub user: Option<PathBuf>,
    /// Source of `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Source of `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// Source of `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// The pod's shared memory: source of `/dev/shm`; with the host's IPC namespace the node's own is taken.
    pub shm: Option<PathBuf>,
    /// For each [`coracle_types::container::Mount`] with an image, by its container path: the directories
    /// that the image is stacked of, the uppermost first.
    pub image_mounts: HashMap<String, Vec<PathBuf>>,
}

/// Who owns the device nodes made in a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceOwnership {
    /// Their owner on the node.
    #[default]
    Host,
    /// The container's `run_as_user` and `run_as_group` where they are set and not 0.
    SecurityContext,
}

/// What a runtime handler adds to every container, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerDefaults {
    /// Capabilities of an unprivileged container; `None` for the usual fourteen.
    pub capabilities: Option<Vec<String>>,
    /// Resource limits of processes.
    pub rlimits: Vec<PosixRlimit>,
    /// Most processes of a container; `None` leaves it to the pod's cgroup.
    pub pids_limit: Option<i64>,
    /// The profile for requests that name none; `None` means unconfined, as CRI says.
    pub unset_seccomp: Option<SecurityProfile>,
    /// Name of the loaded AppArmor profile that stands for `RuntimeDefault`.
    pub apparmor_profile: Option<String>,
    /// Owners of device nodes.
    pub device_ownership: DeviceOwnership,
    /// Keys of pod annotations to pass on to the runtime: exact, or up to a `*` at the end.
    pub pod_annotations: Vec<String>,
    /// Likewise of container annotations.
    pub container_annotations: Vec<String>,
    /// Kernel parameters of pods with a network of their own, unless the pod sets them.
    pub network_sysctls: BTreeMap<String, String>,
}

impl Default for HandlerDefaults {
    /// As containerd 2: low ports and pings need no capability in a pod's own network.
    fn default() -> Self {
        let network_sysctls = [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ];
        Self {
            capabilities: None,
            rlimits: Vec::new(),
            pids_limit: None,
            unset_seccomp: None,
            apparmor_profile: None,
            device_ownership: DeviceOwnership::default(),
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            network_sysctls: network_sysctls
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }
}
