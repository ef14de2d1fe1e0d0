//! A pod as a manifest asks for it, checked and with its defaults filled in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::container::{Container, SeccompProfile, Selinux};
use crate::volumes::Volume;

/// A pod, ready to be resolved on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The file that it comes from.
    pub source: String,
    /// `metadata.name`, or the workload's.
    pub name: String,
    /// `metadata.namespace`, `default` when left out.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Run first, one after the other; with a restart policy of `Always` they stay beside the rest.
    pub init_containers: Vec<Container>,
    /// At least one.
    pub containers: Vec<Container>,
    /// What containers may mount.
    pub volumes: Vec<Volume>,
    /// Whether what has ended starts again.
    pub restart_policy: RestartPolicy,
    /// Seconds between the stop signal and KILL.
    pub grace_seconds: u32,
    /// Seconds after which the pod is ended.
    pub active_deadline_seconds: Option<u32>,
    /// The host name inside.
    pub hostname: String,
    /// With it the pod has a full name below `NAMESPACE.svc.cluster.local`.
    pub subdomain: String,
    /// The full name is the host name.
    pub fqdn_as_hostname: bool,
    /// Which namespaces are the node's or shared.
    pub sharing: Sharing,
    /// Lines for `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// The resolver.
    pub dns: Dns,
    /// What holds for all containers.
    pub security: PodSecurity,
    /// The runtime's handler; empty for the default.
    pub runtime_class: String,
    /// `spec.serviceAccountName`, for variables that ask for it.
    pub service_account: String,
}

/// Whether a container that has ended starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// In no case.
    Never,
}

/// Which namespaces a pod shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sharing {
    /// The node's network.
    pub host_network: bool,
    /// The node's processes.
    pub host_pid: bool,
    /// The node's IPC.
    pub host_ipc: bool,
    /// One PID namespace for the pod's containers.
    pub processes: bool,
}

/// Names for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// Where the resolver's settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The node's, with the pod's own beside them.
    Node,
    /// The pod's own only.
    None,
}

/// The resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Where the settings come from.
    pub policy: DnsPolicy,
    /// The pod's own.
    pub own: Resolver,
}

/// Settings of a resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Domains that are searched.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// `spec.securityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSecurity {
    /// Group that owns volumes.
    pub fs_group: Option<i64>,
    /// Leave volumes alone whose top has the right group already.
    pub fs_group_on_root_mismatch: bool,
    /// Groups beside the user's own.
    pub supplemental_groups: Vec<i64>,
    /// Only those, none of the image's.
    pub strict_groups: bool,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// User of all containers that name none.
    pub run_as_user: Option<i64>,
    /// Group of all containers that name none.
    pub run_as_group: Option<i64>,
    /// Containers must not run as root.
    pub run_as_non_root: Option<bool>,
    /// Filter of system calls.
    pub seccomp: Option<SeccompProfile>,
    /// AppArmor profile.
    pub apparmor: Option<SeccompProfile>,
    /// SELinux label.
    pub selinux: Option<Selinux>,
}

impl Pod {
    /// Init containers and containers, in the order in which they start.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// Whether any container is privileged; the sandbox must then be, too.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.all_containers()
            .any(|container| container.security.privileged)
    }
}
