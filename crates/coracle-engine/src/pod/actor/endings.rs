//! What the actor does when an operation has ended: state, answers, what follows from it.

use std::sync::Arc;

use coracle_types::ContainerId;
use coracle_types::container::Exit;
use coracle_types::time::UnixNanos;

use super::{Actor, Container, Finished, Link, Operation, exit_reason, lock};
use crate::error::EngineError;
use crate::objects::Object;
use crate::pod::Answer;
use crate::pod::sandbox::{Started, TornDown};
use crate::policy::{ContainerPhase, PodPhase};
use crate::record::ContainerRecord;

impl Actor {
    pub(super) fn finish(&mut self, finished: Finished) {
        match finished {
            Finished::Run(Ok(started)) => self.started(started),
            Finished::Run(Err(error)) => {
                self.over = true;
                self.answer(&Operation::Run, &Err(error));
            }
            Finished::Stop(torn_down) => self.stopped(torn_down),
            Finished::Remove(Ok(())) => {
                self.over = true;
                for id in self.containers.keys() {
                    self.parts.index.remove_container(id);
                }
                self.answer(&Operation::Remove, &Ok(Answer::Done));
            }
            Finished::Remove(Err(error)) => {
                self.set_phase(PodPhase::Stopped);
                self.answer(&Operation::Remove, &Err(error));
            }
            Finished::Create(id, made) => self.created(&id, made),
            Finished::Start(id, outcome) => self.container_started(&id, outcome),
            Finished::StopContainer(id, outcome) => self.container_stopped(&id, outcome),
            Finished::RemoveContainer(id, outcome) => self.container_removed(&id, outcome),
            Finished::Exited(id, Some(exit)) => {
                self.exited(&id, exit);
                self.delete_task(id);
            }
            // The loss of the shim is told by its connection.
            Finished::Exited(_, None) => {}
            Finished::Deleted(id, Ok(())) => self.strike_task(&id),
            Finished::Deleted(id, Err(error)) => {
                tracing::warn!(pod = %self.view.pod.id, container = %id, %error, "its cgroup stays until the pod is removed");
            }
            Finished::Lost => self.lost(),
            Finished::Adopted(outcome) => self.adopted(outcome),
        }
    }

    fn started(&mut self, started: Started) {
        let pod = Arc::make_mut(&mut self.view.pod);
        pod.ips = started.ips;
        pod.netns = started.netns;
        pod.steps = self.trace.steps();
        self.attach_shim(started.shim);
        self.set_phase(PodPhase::Ready);
        self.answer(&Operation::Run, &Ok(Answer::Done));
    }

    fn stopped(&mut self, torn_down: TornDown) {
        for (id, exit) in torn_down.exits {
            self.exited(&id, exit);
        }
        if torn_down.shim_gone {
            self.link = Link::None;
        }
        self.set_phase(PodPhase::Stopped);
        let answer = torn_down.outcome.map(|()| Answer::Done);
        self.answer(&Operation::Stop, &answer);
    }

    fn created(&mut self, id: &ContainerId, made: Result<Box<ContainerRecord>, EngineError>) {
        let answer = match made {
            Ok(record) => {
                self.parts.index.insert_container(id, &self.view.pod.id);
                if let Some(container) = self.containers.get_mut(id) {
                    container.record = Arc::from(record);
                }
                Ok(Answer::Container(id.clone()))
            }
            Err(error) => {
                self.containers.remove(id);
                Err(error)
            }
        };
        self.answer(&Operation::Create(id.clone()), &answer);
    }

    fn container_started(&mut self, id: &ContainerId, outcome: Result<u32, EngineError>) {
        let answer = match outcome {
            Ok(pid) => {
                self.change(id, |record| {
                    record.phase = ContainerPhase::Running;
                    record.pid = Some(pid);
                    record.started_at = UnixNanos::now();
                });
                self.await_exit(id.clone());
                Ok(Answer::Done)
            }
            Err(error) => {
                self.change(id, |record| {
                    let now = UnixNanos::now();
                    record.phase = ContainerPhase::Exited;
                    record.started_at = now;
                    record.finished_at = now;
                    record.exit_code = 128;
                    "StartError".clone_into(&mut record.reason);
                    record.message = error.to_string();
                });
                if let Some(container) = self.containers.get(id) {
                    container.ended.send_replace(true);
                }
                Err(error)
            }
        };
        let pod = Arc::make_mut(&mut self.view.pod);
        pod.steps = self.trace.steps();
        self.answer(&Operation::Start(id.clone()), &answer);
    }

    fn container_stopped(&mut self, id: &ContainerId, outcome: Result<(), EngineError>) {
        if let Some(container) = self.containers.get_mut(id) {
            container.patience = None;
            if container.record.phase == ContainerPhase::Stopping {
                self.change(id, |record| record.phase = ContainerPhase::Running);
            }
        }
        self.answer(
            &Operation::StopContainer(id.clone()),
            &outcome.map(|()| Answer::Done),
        );
    }

    fn container_removed(&mut self, id: &ContainerId, outcome: Result<(), EngineError>) {
        match &outcome {
            Ok(()) => {
                self.strike_task(id);
                self.containers.remove(id);
                self.parts.index.remove_container(id);
            }
            Err(_) => {
                if let Some(back) = self.containers.get(id).map(Container::phase_without_removal) {
                    self.change(id, |record| record.phase = back);
                }
            }
        }
        if outcome.is_ok() {
            // A stop that this removal overtook is through, too.
            self.answer(&Operation::StopContainer(id.clone()), &Ok(Answer::Done));
        }
        self.answer(
            &Operation::RemoveContainer(id.clone()),
            &outcome.map(|()| Answer::Done),
        );
    }

    pub(super) fn exited(&mut self, id: &ContainerId, exit: Exit) {
        self.change(id, |record| {
            if record.phase != ContainerPhase::Removing {
                record.phase = ContainerPhase::Exited;
            }
            if record.finished_at == UnixNanos::default() {
                record.finished_at = exit.at;
                record.exit_code = exit.code;
                record.reason = exit_reason(exit).to_owned();
            }
        });
        if let Some(container) = self.containers.get(id) {
            container.ended.send_replace(true);
        }
    }

    pub(super) fn delete_task(&mut self, id: ContainerId) {
        let Some(shim) = self.living_shim() else { return };
        let removing = self
            .containers
            .get(&id)
            .is_some_and(|container| container.record.phase == ContainerPhase::Removing);
        if removing || self.view.pod.phase == PodPhase::Stopping {
            return;
        }
        self.operations.push(Box::pin(async move {
            let deleted = crate::pod::stop::delete(&shim, &id).await;
            Finished::Deleted(id, deleted)
        }));
    }

    pub(super) fn strike_task(&self, id: &ContainerId) {
        let gone = |object: &Object| matches!(object, Object::Task { container, .. } if container == id);
        if let Err(error) = lock(&self.ledger).strike(gone) {
            tracing::warn!(pod = %self.view.pod.id, %error, "a container that is gone stays in the ledger");
        }
    }
}
