//! What a pod's actor works with: the crates below, the records, the index.

use std::sync::Arc;

use coracle_image::Images;
use coracle_network::Networks;
use coracle_snapshot::Snapshotter;
use coracle_spec::Host;
use coracle_task::Shims;

use crate::config::EngineConfig;
use crate::index::Index;
use crate::record::Records;

/// Shared by all actors.
pub(crate) struct Parts {
    pub(crate) config: EngineConfig,
    /// What this kernel and node can do.
    pub(crate) host: Host,
    /// Names this boot; objects of another one are gone.
    pub(crate) boot: String,
    pub(crate) images: Images,
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    pub(crate) networks: Networks,
    pub(crate) shims: Arc<Shims>,
    pub(crate) records: Records,
    pub(crate) index: Index,
}
