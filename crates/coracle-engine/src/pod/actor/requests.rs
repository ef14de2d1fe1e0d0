//! What the actor does with a request: judge it, begin, join, park or refuse.

use std::sync::Arc;
use std::time::Duration;

use coracle_task::Shim;
use coracle_types::container::{ContainerConfig, ContainerMetadata};
use coracle_types::{ContainerId, Kind};
use tokio::sync::watch;

use super::{
    Actor, Container, Finished, Link, Operation, answer_of_the_gone, is_ending, lock, send, stop_deadline,
    word,
};
use crate::error::EngineError;
use crate::pod::{Answer, Message, Reply, Request};
use crate::policy::{
    self, ContainerPhase, ContainerRequest, Leftovers, PodPhase, PodRequest, Refusal, Repeat, Verdict,
};
use crate::record::ContainerRecord;

impl Actor {
    pub(super) fn receive(&mut self, message: Message) {
        if self.over {
            return answer_of_the_gone(message, &self.view);
        }
        if self.waits_for_update(&message.request) {
            return self.park(message);
        }
        let verdict = match self.judge(&message.request) {
            Ok(verdict) => verdict,
            Err(answer) => return send(message.reply, *answer),
        };
        match verdict {
            Verdict::Begin | Verdict::Done if self.wants_shim(&message.request) => match &self.link {
                Link::Adopting => self.park(message),
                Link::Lost(error) if !is_ending(&message.request) => {
                    let error = error.clone();
                    send(message.reply, Err(error));
                    if self.view.pod.phase == PodPhase::Ready {
                        self.adopt();
                    }
                }
                _ => self.go(verdict, message),
            },
            Verdict::Begin | Verdict::Done => self.go(verdict, message),
            Verdict::Join => self.join(message),
            Verdict::Wait => {
                let ends_pod = matches!(message.request, Request::Stop | Request::Remove);
                if ends_pod && self.view.pod.phase == PodPhase::Ready {
                    self.set_phase(PodPhase::Draining);
                }
                self.park(message);
            }
            Verdict::Refuse(refusal) => {
                let error = self.refusal(&message.request, refusal);
                send(message.reply, Err(error));
            }
        }
    }

    pub(super) fn go(&mut self, verdict: Verdict, message: Message) {
        if verdict == Verdict::Begin {
            self.begin(message);
        } else {
            let answer = self.done(&message.request);
            send(message.reply, answer);
        }
    }

    /// The verdict, or at once an answer when there is no such container.
    fn judge(&self, request: &Request) -> Result<Verdict, Box<Result<Answer, EngineError>>> {
        let phase = self.view.pod.phase;
        let of_pod = |request| {
            let leftovers = if self.owns_objects() {
                Leftovers::Some
            } else {
                Leftovers::None
            };
            policy::pod(
                request,
                phase,
                leftovers,
                self.containers.values().map(|c| c.record.phase),
            )
        };
        let of_container = |request, id: &ContainerId| match self.containers.get(id) {
            Some(container) => Ok(policy::container(request, phase, container.record.phase)),
            None if matches!(request, ContainerRequest::Stop | ContainerRequest::Remove) => {
                Err(Box::new(Ok(Answer::Done)))
            }
            None => Err(Box::new(Err(EngineError::new(
                Kind::NotFound,
                "find",
                format!("container {id} is gone"),
            )))),
        };
        match request {
            Request::Run(repeat) => Ok(of_pod(PodRequest::RunAgain(*repeat))),
            Request::Stop => Ok(of_pod(PodRequest::Stop)),
            Request::Remove => Ok(of_pod(PodRequest::Remove)),
            Request::Create(config) => match self.named(&config.metadata) {
                None => Ok(of_pod(PodRequest::Create)),
                Some(existing) => {
                    let repeat = if existing.config == **config {
                        Repeat::Same
                    } else {
                        Repeat::Differs
                    };
                    of_container(ContainerRequest::CreateAgain(repeat), &existing.id)
                }
            },
            Request::Start(id) => of_container(ContainerRequest::Start, id),
            Request::StopContainer(id, _) => of_container(ContainerRequest::Stop, id),
            Request::RemoveContainer(id) => of_container(ContainerRequest::Remove, id),
            Request::Use(id) => of_container(ContainerRequest::Use, id),
            Request::Update(id, _) => of_container(ContainerRequest::Update, id),
        }
    }

    fn named(&self, name: &ContainerMetadata) -> Option<&ContainerRecord> {
        self.containers
            .values()
            .map(|c| &*c.record)
            .find(|record| record.config.metadata == *name)
    }

    pub(super) fn owns_objects(&self) -> bool {
        !lock(&self.ledger).entries().is_empty()
    }

    fn wants_shim(&self, request: &Request) -> bool {
        match request {
            Request::Run(_) | Request::Create(_) => false,
            Request::Update(id, _) => self
                .containers
                .get(id)
                .is_some_and(|c| c.record.phase == ContainerPhase::Running),
            Request::RemoveContainer(id) => self
                .containers
                .get(id)
                .is_some_and(|c| c.record.phase != ContainerPhase::Created),
            Request::StopContainer(id, _) => self
                .containers
                .get(id)
                .is_some_and(|c| c.record.phase == ContainerPhase::Running),
            _ => true,
        }
    }

    fn refusal(&self, request: &Request, refusal: Refusal) -> EngineError {
        let pod = &self.view.pod;
        let (operation, kind) = match request {
            Request::Run(_) => ("run pod sandbox", Kind::AlreadyExists),
            Request::Create(_) if refusal == Refusal::NameTaken => ("create container", Kind::AlreadyExists),
            Request::Create(_) => ("create container", Kind::FailedPrecondition),
            Request::Start(_) => ("start container", Kind::FailedPrecondition),
            _ => ("use container", Kind::FailedPrecondition),
        };
        let state = |id: &ContainerId| {
            self.containers
                .get(id)
                .map_or("gone", |container| word(container.record.phase))
        };
        let message = match (request, refusal) {
            (Request::Run(_), _) => format!(
                "the name {}/{} (uid {}, attempt {}) belongs to pod sandbox {}: remove it or raise the attempt",
                pod.config.metadata.namespace,
                pod.config.metadata.name,
                pod.config.metadata.uid,
                pod.config.metadata.attempt,
                pod.id,
            ),
            (Request::Create(config), Refusal::NameTaken) => format!(
                "the name {} (attempt {}) is taken in pod sandbox {}: remove that container or raise the attempt",
                config.metadata.name, config.metadata.attempt, pod.id,
            ),
            (_, Refusal::PodNotReady) => format!("pod sandbox {} is not ready: run a new one", pod.id),
            (Request::Start(id), _) => format!(
                "container {id} is {}: only a created one can be started",
                state(id)
            ),
            (Request::Use(id) | Request::Update(id, _), _) => {
                format!("container {id} is {}: it must be running", state(id))
            }
            _ => format!("pod sandbox {} does not allow it now", pod.id),
        };
        EngineError::new(kind, operation, message)
    }

    pub(super) fn join(&mut self, message: Message) {
        let operation = match &message.request {
            Request::Run(_) => Operation::Run,
            Request::Stop => Operation::Stop,
            Request::Remove => Operation::Remove,
            Request::Create(config) => match self.named(&config.metadata) {
                Some(record) => Operation::Create(record.id.clone()),
                None => return self.park(message),
            },
            Request::Start(id) | Request::Use(id) => Operation::Start(id.clone()),
            Request::StopContainer(id, timeout) => {
                self.shorten(id, *timeout);
                Operation::StopContainer(id.clone())
            }
            Request::RemoveContainer(id) => Operation::RemoveContainer(id.clone()),
            Request::Update(id, _) => Operation::Update(id.clone()),
        };
        self.enlist(operation, message.reply);
    }

    /// A repeated stop never sends the signal again, but it may be less patient.
    fn shorten(&self, id: &ContainerId, timeout: Duration) {
        if let Some(patience) = self
            .containers
            .get(id)
            .and_then(|container| container.patience.as_ref())
        {
            let until = stop_deadline(timeout);
            patience.send_if_modified(|current| {
                let earlier = until < *current;
                if earlier {
                    *current = until;
                }
                earlier
            });
        }
    }

    fn done(&self, request: &Request) -> Result<Answer, EngineError> {
        match request {
            Request::Create(config) => Ok(self
                .named(&config.metadata)
                .map_or(Answer::Done, |record| Answer::Container(record.id.clone()))),
            Request::Use(_) => self.shim().map(Answer::Shim),
            _ => Ok(Answer::Done),
        }
    }

    pub(super) fn shim(&self) -> Result<Shim, EngineError> {
        match &self.link {
            Link::Alive(shim) => Ok(shim.clone()),
            Link::Lost(error) => Err(error.clone()),
            Link::None | Link::Adopting => {
                let message = format!(
                    "the shim of pod sandbox {} is not there: try again",
                    self.pod_id()
                );
                Err(EngineError::new(Kind::Unavailable, "reach the shim", message))
            }
        }
    }

    pub(super) fn living_shim(&self) -> Option<Shim> {
        match &self.link {
            Link::Alive(shim) => Some(shim.clone()),
            _ => None,
        }
    }

    pub(super) fn begin(&mut self, message: Message) {
        let Message { request, reply, .. } = message;
        match request {
            Request::Run(_) | Request::Use(_) => send(reply, Ok(Answer::Done)),
            Request::Stop => {
                self.enlist(Operation::Stop, reply);
                self.begin_stop();
            }
            Request::Remove => {
                self.enlist(Operation::Remove, reply);
                self.begin_remove();
            }
            Request::Create(config) => self.begin_create(config, reply),
            Request::Start(id) => self.begin_start(id, reply),
            Request::StopContainer(id, timeout) => self.begin_stop_container(id, timeout, reply),
            Request::RemoveContainer(id) => self.begin_remove_container(id, reply),
            Request::Update(id, resources) => self.begin_update(id, resources, reply),
        }
    }

    pub(super) fn begin_stop(&mut self) {
        self.set_phase(PodPhase::Stopping);
        let (context, shim) = (self.context_of(&Operation::Stop), self.living_shim());
        self.operations.push(Box::pin(
            async move { Finished::Stop(context.tear_down(shim).await) },
        ));
    }

    pub(super) fn begin_remove(&mut self) {
        self.set_phase(PodPhase::Removing);
        let containers = self.containers.values().map(|c| Arc::clone(&c.record)).collect();
        let (context, shim) = (self.context_of(&Operation::Remove), self.living_shim());
        self.operations.push(Box::pin(async move {
            Finished::Remove(context.remove(shim, containers).await)
        }));
    }

    fn begin_create(&mut self, config: Arc<ContainerConfig>, reply: Reply) {
        let id = ContainerId::generate();
        let record = match self.context().draft(&id, &config) {
            Ok(record) => record,
            Err(error) => return send(reply, Err(error)),
        };
        self.containers
            .insert(id.clone(), Container::new(Arc::new(record.clone())));
        let operation = Operation::Create(id.clone());
        self.enlist(operation.clone(), reply);
        let context = self.context_of(&operation);
        let target = self.target_of(&config);
        self.operations.push(Box::pin(async move {
            let made = context.create(record, target).await.map(Box::new);
            Finished::Create(id, made)
        }));
    }

    /// The container whose PID namespace a new one wants to share, when it is one of this pod.
    fn target_of(&self, config: &ContainerConfig) -> Option<Arc<ContainerRecord>> {
        let wanted = &config.security.namespaces.target_id;
        if wanted.is_empty() {
            return None;
        }
        let container = self
            .containers
            .iter()
            .find(|(id, _)| id.as_str().starts_with(wanted))?;
        Some(Arc::clone(&container.1.record))
    }

    fn begin_start(&mut self, id: ContainerId, reply: Reply) {
        let shim = match self.shim() {
            Ok(shim) => shim,
            Err(error) => return send(reply, Err(error)),
        };
        let Some(record) = self.set_container_phase(&id, ContainerPhase::Starting) else {
            return send(reply, Err(crate::pod::gone(&self.view.pod.id)));
        };
        let operation = Operation::Start(id.clone());
        self.enlist(operation.clone(), reply);
        let context = self.context_of(&operation);
        self.operations.push(Box::pin(async move {
            Finished::Start(id, context.start_container(&shim, &record).await)
        }));
    }

    fn begin_stop_container(&mut self, id: ContainerId, timeout: Duration, reply: Reply) {
        // First of all: a phase whose operation never began would be joined for ever.
        let shim = match self.shim() {
            Ok(shim) => shim,
            Err(error) => return send(reply, Err(error)),
        };
        let patience = watch::Sender::new(stop_deadline(timeout));
        let until = patience.subscribe();
        let (Some(record), Some(container)) = (
            self.set_container_phase(&id, ContainerPhase::Stopping),
            self.containers.get_mut(&id),
        ) else {
            return send(reply, Ok(Answer::Done));
        };
        container.patience = Some(patience);
        let ended = container.ended.subscribe();
        let operation = Operation::StopContainer(id.clone());
        self.enlist(operation.clone(), reply);
        let trace = self.context_of(&operation).trace;
        self.operations.push(Box::pin(async move {
            let stop = crate::pod::stop::stop(&shim, &record, until, ended);
            Finished::StopContainer(id, trace.watch("stop.container", stop).await)
        }));
    }

    /// Goes on with a stop whose shim died under it, by the one that took over; a little later, since the
    /// loss may not have been told yet. Says whether there is anything to wait for.
    pub(super) fn stop_by_another_shim(&mut self, id: &ContainerId) -> bool {
        if matches!(self.link, Link::None | Link::Lost(_)) {
            return false;
        }
        let shim = self.living_shim();
        let Some(container) = self.containers.get(id) else {
            return false;
        };
        let Some(patience) = container
            .patience
            .as_ref()
            .filter(|_| container.record.phase == ContainerPhase::Stopping)
        else {
            return false;
        };
        let (record, until, ended) = (
            Arc::clone(&container.record),
            patience.subscribe(),
            container.ended.subscribe(),
        );
        let id = id.clone();
        let trace = self.context_of(&Operation::StopContainer(id.clone())).trace;
        self.operations.push(Box::pin(async move {
            tokio::time::sleep(crate::pod::stop::AFTER_LOSS).await;
            let outcome = match shim {
                Some(shim) => {
                    let stop = crate::pod::stop::stop(&shim, &record, until, ended);
                    trace.watch("stop.container", stop).await
                }
                // Not adopted yet: asked again when this ends.
                None => Err(EngineError::new(
                    Kind::Unavailable,
                    "stop container",
                    "its shim is being replaced",
                )),
            };
            Finished::StopContainer(id, outcome)
        }));
        true
    }

    fn begin_remove_container(&mut self, id: ContainerId, reply: Reply) {
        let Some(container) = self.containers.get(&id) else {
            return send(reply, Ok(Answer::Done));
        };
        let ended = container.ended.subscribe();
        let shim = self.living_shim();
        let Some(record) = self.set_container_phase(&id, ContainerPhase::Removing) else {
            return send(reply, Ok(Answer::Done));
        };
        let operation = Operation::RemoveContainer(id.clone());
        self.enlist(operation.clone(), reply);
        let context = self.context_of(&operation);
        self.operations.push(Box::pin(async move {
            Finished::RemoveContainer(id, context.remove_container(shim, &record, ended).await)
        }));
    }
}
