//! Taking over a pod whose shim or daemon died.

use std::time::Duration;

use coracle_task::{Shim, TaskState};
use coracle_types::container::Exit;
use coracle_types::{ContainerId, Kind, Kinded};

use super::sandbox::PodContext;
use crate::error::EngineError;

/// How often another shim is tried, with twice the pause each time: 1.5 s in all.
const TRIES: u32 = 4;
/// How many that took over may die before they have told all.
const DEATHS: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What the shim that took over says of the containers that may have processes.
pub(super) struct Adopted {
    pub(super) shim: Shim,
    pub(super) tasks: Vec<(ContainerId, Task)>,
}

/// What a shim that took over knows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Running,
    Exited(Exit),
    /// It was made and not started, and has been taken away again: another start makes it anew.
    Undone,
    Unknown,
}

impl PodContext {
    /// Connects to the living shim, or has another one adopt the pod, and asks after `known`. One that dies
    /// meanwhile is followed by another.
    pub(super) async fn adopt(&self, known: Vec<ContainerId>) -> Result<Adopted, EngineError> {
        let mut deaths = 0;
        loop {
            match self.adopt_once(&known).await {
                Err(error) if error.kind() == Kind::Unavailable && deaths < DEATHS => {
                    tracing::warn!(pod = %self.pod.id, %error, "will be tried again");
                    deaths += 1;
                }
                other => return other,
            }
        }
    }

    async fn adopt_once(&self, known: &[ContainerId]) -> Result<Adopted, EngineError> {
        let shim = self.trace.watch("adopt.shim", self.reconnect()).await?;
        let mut tasks = Vec::new();
        for id in known {
            let task = match shim.state(id).await {
                Ok(TaskState::Running) => Task::Running,
                Ok(TaskState::Exited(exit)) => Task::Exited(exit),
                Ok(TaskState::Created) => match self.end_task(&shim, id).await {
                    Ok(_) => Task::Undone,
                    Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                    Err(error) => {
                        tracing::warn!(container = %id, %error, "half a start stays until the pod is stopped");
                        continue;
                    }
                },
                // It was lost with a state file, or between the making of its cgroup and the writing.
                Err(error) if error.kind() == Kind::NotFound => {
                    match self.remove_remains_of(&shim, id).await {
                        Ok(()) => Task::Unknown,
                        Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                        Err(error) => {
                            tracing::warn!(container = %id, %error, "what nobody knows of stays until the pod is stopped");
                            continue;
                        }
                    }
                }
                Err(error) => return Err(EngineError::from_cause("ask after a container")(error)),
            };
            tasks.push((id.clone(), task));
        }
        Ok(Adopted { shim, tasks })
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
