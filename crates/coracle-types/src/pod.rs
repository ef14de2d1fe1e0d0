//! Pod sandboxes as a client asks for them (CRI `PodSandboxConfig`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::resources::LinuxResources;
use crate::security::PodSecurityContext;

/// What the kubelet names a sandbox by; two requests with the same four are one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// How often the sandbox was made anew.
    pub attempt: u32,
}

/// Whether a sandbox can take containers (CRI `PodSandboxState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// It can.
    Ready,
    /// It is being made, stopped or broken.
    NotReady,
}

/// Name servers of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its name as CNI plugins and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port of the host that leads to a port of the pod. A `host_port` of 0 maps nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside.
    pub container_port: u16,
    /// Port on the host.
    pub host_port: u16,
    /// Address of the host that listens; `None` is all.
    pub host_ip: Option<IpAddr>,
}

/// A pod sandbox as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    /// Who it is.
    pub metadata: PodSandboxMetadata,
    /// Host name inside; empty only with the host's network.
    pub hostname: String,
    /// Directory on the host of its containers' logs; empty for none.
    pub log_directory: String,
    /// Name servers; `None` copies the host's.
    pub dns: Option<DnsConfig>,
    /// Ports of the host.
    pub port_mappings: Vec<PortMapping>,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// Opaque.
    pub annotations: BTreeMap<String, String>,
    /// Absolute path of the pod's cgroup (cgroupfs) or a slice's name (systemd); empty for the default.
    pub cgroup_parent: String,
    /// Its security.
    pub security: PodSecurityContext,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// What the runtime costs, as the RuntimeClass says.
    pub overhead: Option<LinuxResources>,
    /// Sum over its containers.
    pub resources: Option<LinuxResources>,
}
