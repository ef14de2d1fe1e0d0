//! The actor and its shim: watching it, and having another one take over.

use coracle_task::Shim;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind, Kinded as _};

use super::{Actor, Finished, Link, Operation};
use crate::error::EngineError;
use crate::pod::recover::{Adopted, Task};
use crate::policy::{ContainerPhase, PodPhase};

impl Actor {
    pub(super) fn attach_shim(&mut self, shim: Shim) {
        let watched = shim.clone();
        self.link = Link::Alive(shim);
        self.operations.push(Box::pin(async move {
            watched.closed().await;
            Finished::Lost
        }));
    }

    pub(super) fn await_exit(&mut self, id: ContainerId) {
        let Some(shim) = self.living_shim() else { return };
        self.operations.push(Box::pin(async move {
            let exit = shim.wait(&id).await.ok();
            Finished::Exited(id, exit)
        }));
    }

    pub(super) fn lost(&mut self) {
        let ending = matches!(
            self.view.pod.phase,
            PodPhase::Stopping | PodPhase::Stopped | PodPhase::Removing
        );
        if matches!(self.link, Link::None | Link::Adopting) {
            return;
        }
        if ending {
            // Meant, or not: a further stop or removal looks whether another one is needed.
            self.link = Link::None;
            return;
        }
        tracing::warn!(pod = %self.view.pod.id, "the shim is gone: another one takes over");
        self.adopt();
    }

    pub(super) fn adopt(&mut self) {
        self.link = Link::Adopting;
        let context = self.context_of(&Operation::Adopt);
        // The ledger knows of starts that no record tells of.
        let mut known = self.noted_tasks();
        let records = self.containers.values().map(|container| &container.record);
        known.extend(
            records
                .filter(|record| matches!(record.phase, ContainerPhase::Running | ContainerPhase::Stopping))
                .map(|record| record.id.clone()),
        );
        let known = known.into_iter().collect();
        self.operations.push(Box::pin(
            async move { Finished::Adopted(context.adopt(known).await) },
        ));
    }

    pub(super) fn adopted(&mut self, outcome: Result<Adopted, EngineError>) {
        self.waiting.remove(&Operation::Adopt);
        let adopted = match outcome {
            Ok(adopted) => adopted,
            Err(error) => {
                tracing::error!(pod = %self.view.pod.id, %error, "no shim could take over");
                // What the node lacks may come back, and the newer program whose pod it is may: the pod is not
                // given up for that, and the next request has it tried again.
                let passing = matches!(error.kind(), Kind::ResourceExhausted | Kind::FailedPrecondition);
                self.link = Link::Lost(error);
                if !passing {
                    self.set_phase(PodPhase::Stopped);
                }
                return;
            }
        };
        self.attach_shim(adopted.shim);
        for (id, task) in adopted.tasks {
            self.adopted_task(id, task);
        }
    }

    /// Brings a container's record in step with what the new shim knows of it.
    fn adopted_task(&mut self, id: ContainerId, task: Task) {
        let Some(phase) = self.containers.get(&id).map(|container| container.record.phase) else {
            // Its record is gone: what is left of it goes, too.
            return self.reap(id);
        };
        match (task, phase) {
            // A start that failed, as far as its client knows; one that has not failed yet decides itself.
            (Task::Running, ContainerPhase::Exited) => self.reap(id),
            (_, ContainerPhase::Starting) => {}
            (Task::Running, ContainerPhase::Removing) => self.await_exit(id),
            (Task::Running, _) => {
                self.running(&id);
                self.await_exit(id);
            }
            (Task::Exited(exit), _) => {
                self.running_since(&id, exit.at);
                self.exited(&id, exit);
                self.delete_task(id);
            }
            (Task::Undone | Task::Unknown, _) => {
                self.strike_task(&id);
                if matches!(
                    phase,
                    ContainerPhase::Running | ContainerPhase::Stopping | ContainerPhase::Removing
                ) {
                    self.vanished(&id);
                }
            }
        }
    }

    fn running(&mut self, id: &ContainerId) {
        let stopping = self.containers.get(id).is_some_and(|c| c.patience.is_some());
        self.change(id, |record| {
            record.phase = if stopping {
                ContainerPhase::Stopping
            } else {
                ContainerPhase::Running
            };
        });
        self.running_since(id, UnixNanos::now());
    }

    /// For a container whose daemon died before it heard that the container runs.
    fn running_since(&mut self, id: &ContainerId, at: UnixNanos) {
        self.change(id, |record| {
            if record.started_at == UnixNanos::default() {
                record.started_at = at.max(record.created_at);
            }
        });
    }
}
