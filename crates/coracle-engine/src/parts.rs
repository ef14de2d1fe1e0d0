//! What a pod's actor works with: the crates below, the records, the index.

use std::sync::Arc;

use coracle_image::Images;
use coracle_network::Networks;
use coracle_snapshot::Snapshotter;
use coracle_spec::Host;
use coracle_systemd::Systemd;
use coracle_task::Shims;

use crate::config::EngineConfig;
use crate::events::Events;
use crate::index::Index;
use crate::operations::Operations;
use crate::record::Records;
use crate::stats::Readers;

/// Shared by all actors.
pub(crate) struct Parts {
    pub(crate) config: EngineConfig,
    /// What this kernel and node can do.
    pub(crate) host: Host,
    /// AppArmor profile of containers that name none, in the kernel.
    pub(crate) apparmor: Option<String>,
    /// Names this boot; objects of another one are gone.
    pub(crate) boot: String,
    pub(crate) images: Images,
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    pub(crate) networks: Networks,
    /// Asked for scopes by the driver `systemd`, and by any driver to put away those of an earlier daemon.
    pub(crate) systemd: Arc<Systemd>,
    pub(crate) shims: Arc<Shims>,
    pub(crate) records: Records,
    pub(crate) index: Index,
    /// What is under way.
    pub(crate) operations: Arc<Operations>,
    /// Who follows events.
    pub(crate) events: Events,
    /// How cgroups and writable layers are read.
    pub(crate) readers: Readers,
}
