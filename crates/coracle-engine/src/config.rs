//! What the engine is told at start; checked, in types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use coracle_image::{PolicySource, RegistryConfig};
use coracle_task::Deadlines;
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
    /// Most processes of a container; `None` leaves it to the pod's cgroup.
    pub pids_limit: Option<u32>,
    /// AppArmor profile that `RuntimeDefault` means; [`crate::APPARMOR_PROFILE`] is loaded at the start. `None` is
    /// unconfined.
    pub apparmor_profile: Option<String>,
    /// Most bytes of one stream that ExecSync keeps; the rest is dropped (CRI says 16 MB).
    pub exec_limit: usize,
    /// The host's resolver configuration, for pods that bring none.
    pub host_resolv_conf: PathBuf,
}

/// What may change while pods run; what is under way ends by what it began with.
#[derive(Debug, Clone)]
pub struct LiveConfig {
    /// How registries are found and asked.
    pub registries: RegistryConfig,
    /// Which images may be pulled.
    pub policy: PolicySource,
    /// Where CNI plugins' programs are looked for, in this order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// How long one run of a plugin's program may take.
    pub plugin_deadline: Duration,
    /// How long shims may take to answer.
    pub shim_deadlines: Deadlines,
    /// What shims log: a filter in their own words.
    pub shim_log: String,
}

/// How pods of one runtime handler are run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handler {}
