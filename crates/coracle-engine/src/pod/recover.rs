//! Taking over a pod whose shim or daemon died.

use std::sync::Arc;
use std::time::Duration;

use coracle_task::{Shim, TaskState};
use coracle_types::container::Exit;
use coracle_types::{ContainerId, Kind, Kinded};

use super::sandbox::PodContext;
use crate::error::EngineError;
use crate::policy::ContainerPhase;
use crate::record::ContainerRecord;

/// How often another shim is tried, with twice the pause each time: 1.5 s in all.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What the shim that took over says of the containers that were thought to run.
pub(super) struct Adopted {
    pub(super) shim: Shim,
    pub(super) running: Vec<ContainerId>,
    pub(super) ended: Vec<(ContainerId, Exit)>,
    /// The shim knows nothing of these.
    pub(super) vanished: Vec<ContainerId>,
}

impl PodContext {
    /// Connects to the living shim, or has another one adopt the pod, and asks after its containers.
    pub(super) async fn adopt(&self, known: Vec<Arc<ContainerRecord>>) -> Result<Adopted, EngineError> {
        let shim = self.reconnect().await?;
        let mut adopted = Adopted {
            shim,
            running: Vec::new(),
            ended: Vec::new(),
            vanished: Vec::new(),
        };
        for record in known {
            if !matches!(
                record.phase,
                ContainerPhase::Starting | ContainerPhase::Running | ContainerPhase::Stopping
            ) {
                continue;
            }
            match adopted.shim.state(&record.id).await {
                Ok(TaskState::Running) => adopted.running.push(record.id.clone()),
                Ok(TaskState::Exited(exit)) => adopted.ended.push((record.id.clone(), exit)),
                Ok(TaskState::Created) => adopted.vanished.push(record.id.clone()),
                Err(error) if error.kind() == Kind::NotFound => adopted.vanished.push(record.id.clone()),
                Err(error) => return Err(EngineError::from_cause("ask after a container")(error)),
            }
        }
        Ok(adopted)
    }

    /// The pod's shim, or another one in its place.
    pub(super) async fn reconnect(&self) -> Result<Shim, EngineError> {
        let dir = self.dir();
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            match self.parts.shims.reconnect(&self.pod.id, &dir).await {
                Ok(shim) => return Ok(shim),
                Err(error) if tries >= TRIES => return Err(EngineError::from_cause("reach the shim")(error)),
                Err(error) => tracing::warn!(pod = %self.pod.id, %error, "will be tried again"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            tries += 1;
        }
    }
}
