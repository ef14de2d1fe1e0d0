//! What the actor does when an operation has ended: state, answers, what follows from it.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_types::container::Exit;
use coracle_types::resources::LinuxResources;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind, Kinded};

use super::{Actor, Container, Finished, Link, Operation, exit_reason, lock};
use crate::error::EngineError;
use crate::objects::Object;
use crate::pod::Answer;
use crate::pod::sandbox::{NotStarted, Started, TornDown};
use crate::policy::{ContainerPhase, PodPhase};
use crate::record::ContainerRecord;

/// Of an exit status that nobody can tell.
const LOST: &str = "the exit status is lost: shim and keeper, which would have known it, were both gone when \
                    the process ended (from kernel 6.15 on it is known all the same)";

impl Actor {
    pub(super) fn finish(&mut self, finished: Finished) {
        match finished {
            Finished::Run(Ok(started)) => self.started(started),
            Finished::Run(Err(failed)) => self.not_started(failed),
            Finished::Stop(torn_down) => {
                let answer = self.stopped(torn_down);
                self.answer(&Operation::Stop, &answer);
            }
            Finished::Remove(torn_down) if torn_down.outcome.is_ok() => {
                self.over = true;
                for id in self.containers.keys() {
                    self.parts.index.remove_container(id);
                }
                let pod = &self.view.pod;
                self.parts.index.remove_pod(&pod.id, &pod.config.metadata);
                self.answer(&Operation::Remove, &Ok(Answer::Done));
            }
            Finished::Remove(torn_down) => {
                let answer = self.stopped(torn_down);
                self.answer(&Operation::Remove, &answer);
            }
            Finished::Create(id, made) => self.created(&id, made),
            Finished::Start(id, outcome) => self.container_started(&id, outcome),
            Finished::StopContainer(id, outcome) => self.container_stopped(&id, outcome),
            Finished::RemoveContainer(id, outcome) => self.container_removed(&id, outcome),
            Finished::Updated(id, outcome) => self.updated(&id, outcome),
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

    /// A pod that could not be undone whole stays, stopped: whoever removes it tries again.
    fn not_started(&mut self, failed: NotStarted) {
        if let Err(left) = failed.undone {
            tracing::error!(pod = %self.view.pod.id, error = %left, "a failed start is undone when the pod is removed");
            self.set_phase(PodPhase::Stopped);
        } else {
            self.over = true;
        }
        self.answer(&Operation::Run, &Err(failed.error));
    }

    fn stopped(&mut self, torn_down: TornDown) -> Result<Answer, EngineError> {
        for (id, exit) in torn_down.exits {
            self.exited(&id, exit);
        }
        if torn_down.shim_gone {
            self.link = Link::None;
        }
        self.end_the_unknown();
        self.set_phase(PodPhase::Stopped);
        torn_down.outcome.map(|()| Answer::Done)
    }

    /// Containers that are thought to run and have nothing left that could: how they ended nobody can tell.
    pub(super) fn end_the_unknown(&mut self) {
        let noted = self.noted_tasks();
        let ids: Vec<_> = self
            .containers
            .values()
            .map(|container| &container.record)
            .filter(|record| {
                matches!(record.phase, ContainerPhase::Running | ContainerPhase::Stopping)
                    && !noted.contains(&record.id)
            })
            .map(|record| record.id.clone())
            .collect();
        for id in ids {
            self.vanished(&id);
        }
    }

    /// Its exit status is lost.
    pub(super) fn vanished(&mut self, id: &ContainerId) {
        self.change(id, |record| {
            if record.phase != ContainerPhase::Removing {
                record.phase = ContainerPhase::Exited;
            }
            // The clock may have been set back meanwhile: here and below, an end is never before a beginning.
            record.finished_at = UnixNanos::now().max(record.started_at);
            record.exit_code = 255;
            "Unknown".clone_into(&mut record.reason);
            "its shim was lost and the exit status with it".clone_into(&mut record.message);
        });
        if let Some(container) = self.containers.get(id) {
            container.ended.send_replace(true);
        }
    }

    /// Containers of which processes or a cgroup may be there.
    pub(super) fn noted_tasks(&self) -> HashSet<ContainerId> {
        let ledger = lock(&self.ledger);
        let tasks = ledger.entries().iter().filter_map(|object| match object {
            Object::Task { container, .. } => Some(container.clone()),
            _ => None,
        });
        tasks.collect()
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
                    record.started_at = UnixNanos::now().max(record.created_at);
                });
                self.await_exit(id.clone());
                Ok(Answer::Done)
            }
            Err(error) => {
                self.change(id, |record| {
                    let now = UnixNanos::now().max(record.created_at);
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
                if self.noted_tasks().contains(id) {
                    // Undoing it failed: its shim died, and another one may be there by now.
                    self.reap(id.clone());
                }
                Err(error)
            }
        };
        let pod = Arc::make_mut(&mut self.view.pod);
        pod.steps = self.trace.steps();
        self.answer(&Operation::Start(id.clone()), &answer);
    }

    fn container_stopped(&mut self, id: &ContainerId, outcome: Result<(), EngineError>) {
        let lost = outcome
            .as_ref()
            .is_err_and(|error| error.kind() == Kind::Unavailable);
        if lost && self.stop_by_another_shim(id) {
            return;
        }
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

    fn updated(&mut self, id: &ContainerId, outcome: Result<Box<LinuxResources>, EngineError>) {
        let answer = outcome.map(|resources| {
            self.change(id, |record| record.resources = *resources);
            Answer::Done
        });
        self.answer(&Operation::Update(id.clone()), &answer);
    }

    pub(super) fn exited(&mut self, id: &ContainerId, exit: Exit) {
        self.change(id, |record| {
            if record.phase != ContainerPhase::Removing {
                record.phase = ContainerPhase::Exited;
            }
            if record.finished_at == UnixNanos::default() {
                record.finished_at = exit.at.max(record.started_at);
                record.exit_code = exit.code;
                record.reason = exit_reason(exit).to_owned();
                if exit.lost {
                    LOST.clone_into(&mut record.message);
                }
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
        let context = self.context();
        self.operations.push(Box::pin(async move {
            let deleted = crate::pod::stop::delete(&shim, &id).await;
            if deleted.is_ok() {
                context.end_scope(id.as_str()).await;
            }
            Finished::Deleted(id, deleted)
        }));
    }

    /// Ends what may still run of a container that has ended as far as anybody was told.
    pub(super) fn reap(&mut self, id: ContainerId) {
        let Some(shim) = self.living_shim() else { return };
        let context = self.context();
        self.operations.push(Box::pin(async move {
            let ended = context.end_task(&shim, &id).await.map(|_| ());
            Finished::Deleted(id, ended)
        }));
    }

    pub(super) fn strike_task(&self, id: &ContainerId) {
        let gone = |object: &Object| matches!(object, Object::Task { container, .. } if container == id);
        if let Err(error) = lock(&self.ledger).strike(gone) {
            tracing::warn!(pod = %self.view.pod.id, %error, "a container that is gone stays in the ledger");
        }
    }
}
