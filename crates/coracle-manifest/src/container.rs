//! A container as a manifest asks for it.

use std::net::IpAddr;

use crate::environment::{Variable, Words};
use crate::pod::RestartPolicy;
use crate::probe::{Lifecycle, Probes};
use crate::quantity::Quantity;

/// A container, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name within the pod.
    pub name: String,
    /// The image's reference.
    pub image: String,
    /// When the image is pulled.
    pub pull: PullPolicy,
    /// Replaces the image's entrypoint; references are not expanded yet.
    pub command: Words,
    /// Replaces the image's arguments; references are not expanded yet.
    pub args: Words,
    /// Working directory; empty for the image's.
    pub working_dir: String,
    /// Variables, those of whole maps first.
    pub env: Vec<Variable>,
    /// Ports that it listens on.
    pub ports: Vec<Port>,
    /// Its share of the node.
    pub resources: Resources,
    /// What it sees of volumes.
    pub mounts: Vec<VolumeMount>,
    /// How its state is asked for.
    pub probes: Probes,
    /// What is done after its start and before its end.
    pub lifecycle: Lifecycle,
    /// Whether it starts again; the pod's word when it says nothing.
    pub restart_policy: Option<RestartPolicy>,
    /// What guards it.
    pub security: ContainerSecurity,
    /// File inside from which its last words are read.
    pub termination_path: String,
    /// The end of its log stands in when that file is empty and it failed.
    pub termination_from_log: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close it after the first who attached has left.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At each start of the pod.
    Always,
    /// When it is not on the node.
    IfNotPresent,
    /// In no case.
    Never,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// By which probes may name it.
    pub name: String,
    /// Inside.
    pub container: u16,
    /// On the node, if it is to lead there.
    pub host: Option<u16>,
    /// Address of the node that listens; all of them when left out.
    pub host_ip: Option<IpAddr>,
    /// Protocol.
    pub protocol: Protocol,
}

/// Protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Requests and limits; a request left out is its limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU asked for.
    pub cpu_request: Option<Quantity>,
    /// CPU at most.
    pub cpu_limit: Option<Quantity>,
    /// Memory asked for, bytes.
    pub memory_request: Option<Quantity>,
    /// Memory at most, bytes.
    pub memory_limit: Option<Quantity>,
    /// Storage asked for, bytes; only shown to the container.
    pub storage_request: Option<Quantity>,
    /// Storage at most, bytes; only shown to the container.
    pub storage_limit: Option<Quantity>,
    /// Huge pages by their size in bytes.
    pub hugepages: Vec<(u64, u64)>,
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume.
    pub volume: String,
    /// Where it is seen.
    pub path: String,
    /// A part of it; variables may be in it.
    pub sub_path: SubPath,
    /// Not to be written.
    pub read_only: bool,
    /// What is mounted below it is read-only, too.
    pub recursive_read_only: bool,
    /// Mounts that pass.
    pub propagation: Propagation,
}

/// Which part of a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubPath {
    /// All of it.
    Whole,
    /// A path as it stands.
    Plain(String),
    /// A path with `$(NAME)` in it.
    Expanded(String),
}

/// Which mounts pass between node and container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    None,
    /// The node's later ones.
    HostToContainer,
    /// In both directions.
    Bidirectional,
}

/// `securityContext` of a container, with the pod's where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSecurity {
    /// Without guards.
    pub privileged: bool,
    /// User.
    pub run_as_user: Option<i64>,
    /// Group.
    pub run_as_group: Option<i64>,
    /// Refuse to run as root.
    pub run_as_non_root: bool,
    /// The root is not to be written.
    pub read_only_root: bool,
    /// `false` sets `no_new_privs`.
    pub allow_escalation: Option<bool>,
    /// Capabilities beside the usual ones.
    pub add: Vec<String>,
    /// Capabilities of the usual ones that go.
    pub drop: Vec<String>,
    /// `/proc` without masks.
    pub unmasked_proc: bool,
    /// Filter of system calls; the runtime's when nobody says anything.
    pub seccomp: SeccompProfile,
    /// AppArmor profile.
    pub apparmor: Option<SeccompProfile>,
    /// SELinux label.
    pub selinux: Option<Selinux>,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// The runtime's own.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the node's.
    Localhost(String),
}

/// An SELinux label's parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selinux {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level.
    pub level: String,
}
