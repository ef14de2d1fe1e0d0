//! What a shim left that no other one can know of: killed and removed by the paths that the ledger has.

use coracle_task::Shim;
use coracle_types::ContainerId;
use coracle_types::container::Exit;

use super::actor::lock;
use super::sandbox::PodContext;
use crate::error::EngineError;
use crate::objects::Object;

impl PodContext {
    /// Ends a container at once and removes its kernel objects, also when its shim knows nothing of it;
    /// `None` when there was nobody to tell how it ended.
    pub(super) async fn end_task(&self, shim: &Shim, id: &ContainerId) -> Result<Option<Exit>, EngineError> {
        let exit = super::stop::kill_and_delete(shim, id).await?;
        if exit.is_none() {
            self.remove_remains_of(shim, id).await?;
        }
        self.end_scope(id.as_str()).await;
        Ok(exit)
    }

    /// Kills what runs in the cgroup of a container that the shim does not know, and removes it.
    pub(super) async fn remove_remains_of(&self, shim: &Shim, id: &ContainerId) -> Result<(), EngineError> {
        let cgroups = lock(&self.ledger)
            .entries()
            .iter()
            .filter_map(|object| match object {
                Object::Task { container, cgroup } if container == id => Some(cgroup.clone()),
                _ => None,
            })
            .collect();
        shim.remove_remains(cgroups, None, None)
            .await
            .map_err(EngineError::from_cause("remove what a lost shim left"))
    }

    /// After the shim took away what it knows of: pins, shared memory and the init's cgroup that are there
    /// all the same.
    pub(super) async fn remove_remains(&self, shim: &Shim) -> Result<(), EngineError> {
        let files = self.files();
        let (pins, shm) = (files.namespaces(), files.shm());
        let pinned = std::fs::read_dir(&pins).is_ok_and(|mut pins| pins.next().is_some());
        if !pinned && !shm.exists() && self.pod.quarantine.is_none() {
            return Ok(());
        }
        tracing::warn!(pod = %self.pod.id, "its shim did not know of all that it has: that goes by path");
        shim.remove_remains(
            vec![self.cgroup_of(self.pod.id.as_str())],
            Some(&pins),
            Some(&shm),
        )
        .await
        .map_err(EngineError::from_cause("remove what a lost shim left"))
    }
}
