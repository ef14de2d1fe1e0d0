//! Security contexts of pods and containers (CRI `Linux*SecurityContext`).

use serde::{Deserialize, Serialize};

/// Which namespace a pod or container uses (CRI `NamespaceMode`); CRI's zero value is `Pod`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The pod's.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The node's.
    Node,
    /// That of the container named by `target_id`.
    Target,
}

/// Namespaces of a pod or container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// Network: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Processes.
    pub pid: NamespaceMode,
    /// System V and POSIX IPC: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The container whose PID namespace is joined when `pid` is `Target`.
    pub target_id: String,
    /// The pod's user namespace; `None` or mode `Node` is the node's.
    pub user: Option<UserNamespace>,
}

/// A user namespace and its mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// `Pod` for one of its own, `Node` for none.
    pub mode: NamespaceMode,
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// `length` ids from `container_id` on appear on the host from `host_id` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host.
    pub host_id: u32,
    /// First id inside.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// How groups of the image's `/etc/group` count (CRI `SupplementalGroupsPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// The image's memberships and the requested groups.
    #[default]
    Merge,
    /// The requested groups only.
    Strict,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file (seccomp) or the name of a loaded profile (AppArmor) on the node.
    Localhost(String),
}

/// SELinux context parts; empty parts take the policy's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    pub type_: String,
    /// Level part.
    pub level: String,
}

/// Security of a pod sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSecurityContext {
    /// Namespaces of the pod.
    pub namespaces: NamespaceOptions,
    /// SELinux label of the pod.
    pub selinux: Option<SelinuxOptions>,
    /// User of the sandbox's init.
    pub run_as_user: Option<i64>,
    /// Group of the sandbox's init.
    pub run_as_group: Option<i64>,
    /// Root file system of the sandbox read-only.
    pub readonly_rootfs: bool,
    /// Groups of the sandbox's init.
    pub supplemental_groups: Vec<i64>,
    /// How the image's groups count.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether privileged containers are allowed in this pod.
    pub privileged: bool,
    /// `None` means unconfined (CRI: a nil profile).
    pub seccomp: Option<SecurityProfile>,
    /// `None` means the node's default.
    pub apparmor: Option<SecurityProfile>,
}

/// Capabilities to add and drop; names with or without `CAP_`, `ALL` for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added to the default set.
    pub add: Vec<String>,
    /// Taken from it.
    pub drop: Vec<String>,
    /// Added to the ambient set too.
    pub add_ambient: Vec<String>,
}

/// Security of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSecurityContext {
    /// Capability changes.
    pub capabilities: Capabilities,
    /// All devices, all capabilities, no masking.
    pub privileged: bool,
    /// Namespaces of the container.
    pub namespaces: NamespaceOptions,
    /// SELinux label.
    pub selinux: Option<SelinuxOptions>,
    /// Numeric user; exclusive with `run_as_username`.
    pub run_as_user: Option<i64>,
    /// Numeric group; needs a user.
    pub run_as_group: Option<i64>,
    /// User by name, looked up in the image.
    pub run_as_username: String,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// How the image's groups count.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Paths hidden under an empty file or directory.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// `None` means unconfined (CRI: a nil profile).
    pub seccomp: Option<SecurityProfile>,
    /// `None` means the node's default.
    pub apparmor: Option<SecurityProfile>,
}
