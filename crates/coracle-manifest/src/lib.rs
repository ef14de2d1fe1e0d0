//! From Kubernetes manifests to pods that are checked and resolved.
//!
//! Owns the meaning of a manifest: YAML to fields, defaults, what is honoured, what is ignored and what
//! is refused, each named with file, line and path; and the numbers that the kubelet would compute
//! (shares, quota, `oom_score_adj`). [`read`] is the first half; [`Pod::environment`] and its neighbours
//! are the second, once a pod has its addresses.
//!
//! Must never do IO, know a wire format or ask a clock: what it needs of the node comes as [`Facts`].
//!
//! Layout on disk: none.

mod config_objects;
mod container;
mod environment;
mod expand;
mod fields;
mod names;
mod node;
mod pod;
mod probe;
mod quantity;
mod read;
mod read_container;
mod read_pod;
mod report;
mod resolve;
mod resources;
mod security;
mod volumes;
mod yaml;

pub use container::{
    Container, ContainerSecurity, Port, Propagation, Protocol, PullPolicy, Resources, SeccompProfile,
    Selinux, SubPath, VolumeMount,
};
pub use environment::{FieldRef, Resource, ResourceRef, Secrecy, Source, Variable, Words};
pub use expand::expand;
pub use pod::{Dns, DnsPolicy, HostAlias, Pod, PodSecurity, Resolver, RestartPolicy, Sharing};
pub use probe::{Action, HttpGet, Lifecycle, Probe, Probes};
pub use quantity::{MalformedQuantity, Quantity};
pub use read::{File, Reading, read};
pub use report::{Problem, Weight};
pub use resolve::Facts;
pub use resources::{Limits, QosClass};
pub use volumes::{FileContent, HostPathKind, Volume, VolumeFile, VolumeSource};

#[cfg(test)]
mod tests;
