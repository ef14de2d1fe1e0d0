//! The actor and its shim: watching it, and having another one take over.

use std::sync::Arc;

use coracle_task::Shim;
use coracle_types::ContainerId;

use super::{Actor, Finished, Link};
use crate::error::EngineError;
use crate::pod::recover::Adopted;
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
        let context = self.context();
        let known = self.containers.values().map(|c| Arc::clone(&c.record)).collect();
        self.operations.push(Box::pin(
            async move { Finished::Adopted(context.adopt(known).await) },
        ));
    }

    pub(super) fn adopted(&mut self, outcome: Result<Adopted, EngineError>) {
        let adopted = match outcome {
            Ok(adopted) => adopted,
            Err(error) => {
                tracing::error!(pod = %self.view.pod.id, %error, "no shim could take over");
                self.link = Link::Lost(error);
                self.set_phase(PodPhase::Stopped);
                return;
            }
        };
        self.attach_shim(adopted.shim);
        for id in adopted.running {
            self.change(&id, |record| {
                if record.phase != ContainerPhase::Stopping {
                    record.phase = ContainerPhase::Running;
                }
            });
            self.await_exit(id);
        }
        for (id, exit) in adopted.ended {
            self.exited(&id, exit);
            self.delete_task(id);
        }
        for id in adopted.vanished {
            self.vanished(&id);
        }
        if matches!(self.view.pod.phase, PodPhase::Stopping) {
            self.set_phase(PodPhase::Ready);
        }
    }
}
