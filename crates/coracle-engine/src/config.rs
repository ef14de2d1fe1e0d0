//! What the engine is told at start; checked, in types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coracle_types::{Instance, RuntimeHandlerName};

use crate::api::CgroupDriver;

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// In the names of all global objects.
    pub instance: Instance,
    /// What outlives a boot (`/var/lib/coracle`).
    pub root: PathBuf,
    /// What does not (`/run/coracle`).
    pub state: PathBuf,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Cgroup of pods that name none: an absolute path in each hierarchy.
    pub default_cgroup_parent: String,
    /// Cgroup of keeper and shims, likewise.
    pub runtime_cgroup: String,
    /// Runtime handlers by name; the empty name is always there.
    pub handlers: BTreeMap<RuntimeHandlerName, Handler>,
    /// The host's resolver configuration, for pods that bring none.
    pub host_resolv_conf: PathBuf,
}

/// How pods of one runtime handler are run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handler {}
