//! A pod as networks see it, and what it got.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use coracle_types::PodSandboxId;
use coracle_types::pod::{DnsConfig, PortMapping};
use serde::{Deserialize, Serialize};

use crate::Error;

/// A pod that wants a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The sandbox's id, CNI's container id.
    pub id: PodSandboxId,
    /// The pod's name, handed on as `K8S_POD_NAME`.
    pub name: String,
    /// The pod's namespace, handed on as `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// The pod's uid, handed on as `K8S_POD_UID`.
    pub uid: String,
    /// Where its network namespace is pinned.
    pub netns: PathBuf,
    /// Ports of the host that lead to it.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's annotations; `kubernetes.io/{in,e}gress-bandwidth` are obeyed when the network
    /// has a plugin for bandwidth, all of them reach plugins that ask for them.
    pub annotations: BTreeMap<String, String>,
    /// Name servers, for plugins with the capability `dns`.
    pub dns: Option<DnsConfig>,
    /// The pod's cgroup, for plugins with the capability `cgroupPath`; may be empty.
    pub cgroup_path: String,
}

impl PodNetwork {
    /// Refuses names that would add or change an argument in `CNI_ARGS`.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        for (field, value) in [
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("uid", &self.uid),
        ] {
            if value.len() > 253 {
                return Err(Error::InvalidPod {
                    field,
                    value: value.chars().take(80).collect(),
                    problem: "is longer than 253 bytes",
                });
            }
            if !value.bytes().all(|b| b.is_ascii_graphic() && !b";=".contains(&b)) {
                return Err(Error::InvalidPod {
                    field,
                    value: value.chars().take(80).collect(),
                    problem: "must be printable ASCII without spaces, ';' and '=', or it would change the \
                              arguments of CNI plugins",
                });
            }
        }
        Ok(())
    }
}

/// What a pod got from its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// Addresses inside the pod; the first is its primary one.
    pub ips: Vec<IpAddr>,
    /// Interfaces that were made, on the host and in the pod.
    pub interfaces: Vec<AttachedInterface>,
    /// Name servers that the network suggests.
    pub dns: DnsConfig,
}

/// One interface of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedInterface {
    /// Its name, on its side.
    pub name: String,
    /// Its hardware address, as text; empty when unknown.
    pub mac: String,
    /// The network namespace it is in; `None` is the host's.
    pub sandbox: Option<PathBuf>,
}

/// A kernel object or file that an attachment makes, named before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkObject {
    /// A pinned network namespace.
    Netns(PathBuf),
    /// A network interface of the host.
    Link(String),
    /// Addresses reserved for the pod in the network of this name.
    Addresses(String),
    /// Elements of the port maps in this nft table.
    PortMap {
        /// The table's name, family `inet`.
        table: String,
        /// The port of the host.
        mapping: PortMapping,
    },
    /// The cached result.
    Record(PathBuf),
}

impl fmt::Display for NetworkObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(path) => write!(f, "netns {}", path.display()),
            Self::Link(name) => write!(f, "link {name}"),
            Self::Addresses(network) => write!(f, "addresses of network {network}"),
            Self::PortMap { table, mapping } => {
                write!(
                    f,
                    "port map {:?}/{} in nft table {table}",
                    mapping.protocol, mapping.host_port
                )
            }
            Self::Record(path) => write!(f, "record {}", path.display()),
        }
    }
}
