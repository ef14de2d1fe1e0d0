//! The actor: one task that owns a pod's state, decides by the policy and runs operations beside it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_store::Ledger;
use coracle_task::Shim;
use coracle_types::container::Exit;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::sandbox::{PodContext, Started, TornDown};
use super::{Answer, Message, Reply, Request, View};
use crate::error::EngineError;
use crate::objects::Object;
use crate::parts::Parts;
use crate::policy::{
    self, ContainerPhase, ContainerRequest, Leftovers, PodPhase, PodRequest, Refusal, Repeat, Verdict,
};
use crate::record::ContainerRecord;
use crate::trace::Trace;

/// With what an actor's life begins.
pub(crate) enum Beginning {
    /// A new pod: its start, and who waits for it.
    Run(Reply),
    /// A pod of an earlier daemon whose shim may live.
    Adopt,
    /// A pod whose kernel objects must go before anything else is asked of it.
    Clean,
    /// A pod that is only remembered.
    Rest,
}

/// The pod's shim, as the actor knows it.
enum Link {
    /// Not made yet, or left after a stop.
    None,
    /// It answers.
    Alive(Shim),
    /// It died, or the daemon did; another one takes over.
    Adopting,
    /// No other one could take over, for this reason.
    Lost(EngineError),
}

/// An operation that further requests may join.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Operation {
    Run,
    Stop,
    Remove,
    Create(ContainerId),
    Start(ContainerId),
    StopContainer(ContainerId),
    RemoveContainer(ContainerId),
}

/// An operation that has ended.
pub(super) enum Finished {
    Run(Result<Started, EngineError>),
    Stop(TornDown),
    Remove(Result<(), EngineError>),
    Create(ContainerId, Result<Box<ContainerRecord>, EngineError>),
    Start(ContainerId, Result<u32, EngineError>),
    StopContainer(ContainerId, Result<(), EngineError>),
    RemoveContainer(ContainerId, Result<(), EngineError>),
    /// A container's first process ended, or its shim was lost while we waited.
    Exited(ContainerId, Option<Exit>),
    /// The kernel objects of an ended container went, or did not.
    Deleted(ContainerId, Result<(), EngineError>),
    /// The connection to the shim ended.
    Lost,
    Adopted(Result<super::recover::Adopted, EngineError>),
}

pub(super) struct Container {
    pub(super) record: Arc<ContainerRecord>,
    /// Until when a stop under way waits before it kills.
    patience: Option<watch::Sender<Instant>>,
    /// Becomes true when the first process has ended.
    ended: watch::Sender<bool>,
}

impl Container {
    fn new(record: Arc<ContainerRecord>) -> Self {
        let ended = record.phase == ContainerPhase::Exited;
        Self {
            record,
            patience: None,
            ended: watch::Sender::new(ended),
        }
    }

    fn record_mut(&mut self) -> &mut ContainerRecord {
        Arc::make_mut(&mut self.record)
    }
}

pub(crate) struct Actor {
    parts: Arc<Parts>,
    view: View,
    ledger: Arc<Mutex<Ledger<Object>>>,
    trace: Trace,
    inbox: mpsc::Receiver<Message>,
    publish: watch::Sender<Arc<View>>,
    link: Link,
    containers: BTreeMap<ContainerId, Container>,
    operations: FuturesUnordered<BoxFuture<'static, Finished>>,
    waiting: HashMap<Operation, Vec<Reply>>,
    parked: Vec<Message>,
    /// Set when nothing is left to do.
    over: bool,
}

impl Actor {
    pub(super) fn new(
        parts: Arc<Parts>,
        view: View,
        ledger: Ledger<Object>,
        trace: Trace,
        inbox: mpsc::Receiver<Message>,
        publish: watch::Sender<Arc<View>>,
    ) -> Self {
        let containers = view
            .containers
            .iter()
            .map(|record| (record.id.clone(), Container::new(Arc::clone(record))))
            .collect();
        Self {
            parts,
            view,
            ledger: Arc::new(Mutex::new(ledger)),
            trace,
            inbox,
            publish,
            link: Link::None,
            containers,
            operations: FuturesUnordered::new(),
            waiting: HashMap::new(),
            parked: Vec::new(),
            over: false,
        }
    }

    /// Until the pod is removed, or the daemon leaves.
    pub(super) async fn live(mut self, beginning: Beginning) {
        self.begin_life(beginning);
        while !self.over {
            tokio::select! {
                Some(finished) = self.operations.next(), if !self.operations.is_empty() => {
                    self.finish(finished);
                    self.publish();
                    for message in std::mem::take(&mut self.parked) {
                        self.receive(message);
                    }
                }
                message = self.inbox.recv() => match message {
                    Some(message) => self.receive(message),
                    // The engine went and with it every way to ask: the pod runs on without us.
                    None => return,
                },
            }
            self.publish();
        }
        let Self {
            mut inbox,
            parked,
            parts,
            view,
            ..
        } = self;
        parts.index.remove_pod(&view.pod.id, &view.pod.config.metadata);
        inbox.close();
        while let Ok(message) = inbox.try_recv() {
            answer_of_the_gone(message, &view);
        }
        for message in parked {
            answer_of_the_gone(message, &view);
        }
    }

    fn begin_life(&mut self, beginning: Beginning) {
        match beginning {
            Beginning::Run(reply) => {
                self.waiting.entry(Operation::Run).or_default().push(reply);
                let context = self.context();
                self.operations
                    .push(Box::pin(async move { Finished::Run(context.run().await) }));
            }
            Beginning::Adopt => self.adopt(),
            Beginning::Clean => self.begin_remove(),
            Beginning::Rest => {}
        }
    }

    fn context(&self) -> PodContext {
        PodContext {
            parts: Arc::clone(&self.parts),
            pod: Arc::clone(&self.view.pod),
            ledger: Arc::clone(&self.ledger),
            trace: self.trace.clone(),
        }
    }

    fn pod_id(&self) -> String {
        self.view.pod.id.to_string()
    }

    // --- requests -------------------------------------------------------------------------------

    fn receive(&mut self, message: Message) {
        if self.over {
            return answer_of_the_gone(message, &self.view);
        }
        let verdict = match self.judge(&message.request) {
            Ok(verdict) => verdict,
            Err(answer) => return send(message.reply, *answer),
        };
        match verdict {
            Verdict::Begin | Verdict::Done if self.wants_shim(&message.request) => match &self.link {
                Link::Adopting => self.parked.push(message),
                Link::Lost(error) if !is_ending(&message.request) => {
                    let error = error.clone();
                    send(message.reply, Err(error));
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
                self.parked.push(message);
            }
            Verdict::Refuse(refusal) => {
                let error = self.refusal(&message.request, refusal);
                send(message.reply, Err(error));
            }
        }
    }

    fn go(&mut self, verdict: Verdict, message: Message) {
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
        }
    }

    fn named(&self, name: &coracle_types::container::ContainerMetadata) -> Option<&ContainerRecord> {
        self.containers
            .values()
            .map(|c| &*c.record)
            .find(|record| record.config.metadata == *name)
    }

    fn owns_objects(&self) -> bool {
        !lock(&self.ledger).entries().is_empty()
    }

    fn wants_shim(&self, request: &Request) -> bool {
        match request {
            Request::Run(_) | Request::Create(_) => false,
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
            (Request::Use(id), _) => format!("container {id} is {}: it must be running", state(id)),
            _ => format!("pod sandbox {} does not allow it now", pod.id),
        };
        EngineError::new(kind, operation, message)
    }

    fn join(&mut self, message: Message) {
        let operation = match &message.request {
            Request::Run(_) => Operation::Run,
            Request::Stop => Operation::Stop,
            Request::Remove => Operation::Remove,
            Request::Create(config) => match self.named(&config.metadata) {
                Some(record) => Operation::Create(record.id.clone()),
                None => return self.parked.push(message),
            },
            Request::Start(id) | Request::Use(id) => Operation::Start(id.clone()),
            Request::StopContainer(id, timeout) => {
                self.shorten(id, *timeout);
                Operation::StopContainer(id.clone())
            }
            Request::RemoveContainer(id) => Operation::RemoveContainer(id.clone()),
        };
        self.waiting.entry(operation).or_default().push(message.reply);
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

    fn shim(&self) -> Result<Shim, EngineError> {
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

    fn living_shim(&self) -> Option<Shim> {
        match &self.link {
            Link::Alive(shim) => Some(shim.clone()),
            _ => None,
        }
    }

    fn begin(&mut self, message: Message) {
        let Message { request, reply } = message;
        match request {
            Request::Run(_) | Request::Use(_) => send(reply, Ok(Answer::Done)),
            Request::Stop => {
                self.waiting.entry(Operation::Stop).or_default().push(reply);
                self.set_phase(PodPhase::Stopping);
                let (context, shim) = (self.context(), self.living_shim());
                self.operations.push(Box::pin(
                    async move { Finished::Stop(context.tear_down(shim).await) },
                ));
            }
            Request::Remove => {
                self.waiting.entry(Operation::Remove).or_default().push(reply);
                self.begin_remove();
            }
            Request::Create(config) => self.begin_create(config, reply),
            Request::Start(id) => self.begin_start(id, reply),
            Request::StopContainer(id, timeout) => self.begin_stop_container(id, timeout, reply),
            Request::RemoveContainer(id) => self.begin_remove_container(id, reply),
        }
    }

    fn begin_remove(&mut self) {
        self.set_phase(PodPhase::Removing);
        let containers = self.containers.values().map(|c| Arc::clone(&c.record)).collect();
        let (context, shim) = (self.context(), self.living_shim());
        self.operations.push(Box::pin(async move {
            Finished::Remove(context.remove(shim, containers).await)
        }));
    }

    fn begin_create(&mut self, config: Arc<coracle_types::container::ContainerConfig>, reply: Reply) {
        let id = ContainerId::generate();
        let context = self.context();
        let record = match context.draft(&id, &config) {
            Ok(record) => record,
            Err(error) => return send(reply, Err(error)),
        };
        self.containers
            .insert(id.clone(), Container::new(Arc::new(record.clone())));
        self.waiting
            .entry(Operation::Create(id.clone()))
            .or_default()
            .push(reply);
        let target = self.target_of(&config);
        self.operations.push(Box::pin(async move {
            let made = context.create(record, target).await.map(Box::new);
            Finished::Create(id, made)
        }));
    }

    /// The container whose PID namespace a new one wants to share, when it is one of this pod.
    fn target_of(&self, config: &coracle_types::container::ContainerConfig) -> Option<Arc<ContainerRecord>> {
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
            return send(reply, Err(super::gone(&self.view.pod.id)));
        };
        self.waiting
            .entry(Operation::Start(id.clone()))
            .or_default()
            .push(reply);
        let context = self.context();
        self.operations.push(Box::pin(async move {
            Finished::Start(id, context.start(&shim, &record).await)
        }));
    }

    fn begin_stop_container(&mut self, id: ContainerId, timeout: Duration, reply: Reply) {
        let (shim, record) = match (
            self.shim(),
            self.set_container_phase(&id, ContainerPhase::Stopping),
        ) {
            (Ok(shim), Some(record)) => (shim, record),
            (Err(error), _) => return send(reply, Err(error)),
            (_, None) => return send(reply, Ok(Answer::Done)),
        };
        let patience = watch::Sender::new(stop_deadline(timeout));
        let until = patience.subscribe();
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        container.patience = Some(patience);
        let ended = container.ended.subscribe();
        self.waiting
            .entry(Operation::StopContainer(id.clone()))
            .or_default()
            .push(reply);
        self.operations.push(Box::pin(async move {
            Finished::StopContainer(id, super::stop::stop(&shim, &record, until, ended).await)
        }));
    }

    fn begin_remove_container(&mut self, id: ContainerId, reply: Reply) {
        let Some(container) = self.containers.get(&id) else {
            return send(reply, Ok(Answer::Done));
        };
        let ran = container.record.phase != ContainerPhase::Created;
        let ended = container.ended.subscribe();
        let shim = if ran { self.living_shim() } else { None };
        let Some(record) = self.set_container_phase(&id, ContainerPhase::Removing) else {
            return;
        };
        self.waiting
            .entry(Operation::RemoveContainer(id.clone()))
            .or_default()
            .push(reply);
        let context = self.context();
        self.operations.push(Box::pin(async move {
            Finished::RemoveContainer(id, context.remove_container(shim, &record, ended).await)
        }));
    }

    // --- endings --------------------------------------------------------------------------------

    fn finish(&mut self, finished: Finished) {
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
                let ended = self.containers.get(id).is_some_and(|c| *c.ended.borrow());
                let back = if ended {
                    ContainerPhase::Exited
                } else {
                    ContainerPhase::Running
                };
                self.change(id, |record| record.phase = back);
            }
        }
        // A stop that this removal overtook is through, too.
        self.answer(&Operation::StopContainer(id.clone()), &Ok(Answer::Done));
        self.answer(
            &Operation::RemoveContainer(id.clone()),
            &outcome.map(|()| Answer::Done),
        );
    }

    fn exited(&mut self, id: &ContainerId, exit: Exit) {
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

    fn delete_task(&mut self, id: ContainerId) {
        let Some(shim) = self.living_shim() else { return };
        let removing = self
            .containers
            .get(&id)
            .is_some_and(|container| container.record.phase == ContainerPhase::Removing);
        if removing || self.view.pod.phase == PodPhase::Stopping {
            return;
        }
        self.operations.push(Box::pin(async move {
            let deleted = super::stop::delete(&shim, &id).await;
            Finished::Deleted(id, deleted)
        }));
    }

    fn strike_task(&self, id: &ContainerId) {
        let gone = |object: &Object| matches!(object, Object::Task { container, .. } if container == id);
        if let Err(error) = lock(&self.ledger).strike(gone) {
            tracing::warn!(pod = %self.view.pod.id, %error, "a container that is gone stays in the ledger");
        }
    }

    // --- the shim -------------------------------------------------------------------------------

    fn attach_shim(&mut self, shim: Shim) {
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

    fn lost(&mut self) {
        let ending = matches!(
            self.view.pod.phase,
            PodPhase::Stopping | PodPhase::Stopped | PodPhase::Removing
        );
        if matches!(self.link, Link::None | Link::Adopting) || ending {
            return;
        }
        tracing::warn!(pod = %self.view.pod.id, "the shim is gone: another one takes over");
        self.adopt();
    }

    fn adopt(&mut self) {
        self.link = Link::Adopting;
        let context = self.context();
        let known = self.containers.values().map(|c| Arc::clone(&c.record)).collect();
        self.operations.push(Box::pin(
            async move { Finished::Adopted(context.adopt(known).await) },
        ));
    }

    fn adopted(&mut self, outcome: Result<super::recover::Adopted, EngineError>) {
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
            self.change(&id, |record| {
                record.phase = ContainerPhase::Exited;
                record.finished_at = UnixNanos::now();
                record.exit_code = 255;
                "Unknown".clone_into(&mut record.reason);
                "its shim was lost and the exit status with it".clone_into(&mut record.message);
            });
            if let Some(container) = self.containers.get(&id) {
                container.ended.send_replace(true);
            }
        }
        if matches!(self.view.pod.phase, PodPhase::Stopping) {
            self.set_phase(PodPhase::Ready);
        }
    }

    // --- state ----------------------------------------------------------------------------------

    fn set_phase(&mut self, phase: PodPhase) {
        Arc::make_mut(&mut self.view.pod).phase = phase;
        if phase != PodPhase::Removing {
            if let Err(error) = self.parts.records.put_pod(&self.view.pod) {
                tracing::error!(pod = %self.view.pod.id, %error, "its state is not on file");
            }
        }
    }

    fn set_container_phase(
        &mut self,
        id: &ContainerId,
        phase: ContainerPhase,
    ) -> Option<Arc<ContainerRecord>> {
        let container = self.containers.get_mut(id)?;
        container.record_mut().phase = phase;
        Some(Arc::clone(&container.record))
    }

    /// Changes a container's record and remembers it.
    fn change(&mut self, id: &ContainerId, change: impl FnOnce(&mut ContainerRecord)) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        change(container.record_mut());
        if container.record.phase == ContainerPhase::Removing {
            return;
        }
        if let Err(error) = self.parts.records.put_container(&container.record) {
            tracing::error!(container = %id, %error, "its state is not on file");
        }
    }

    fn publish(&mut self) {
        self.view.containers = self
            .containers
            .values()
            .filter(|container| container.record.phase != ContainerPhase::Creating)
            .map(|container| Arc::clone(&container.record))
            .collect();
        self.publish.send_replace(Arc::new(self.view.clone()));
    }

    fn answer(&mut self, operation: &Operation, answer: &Result<Answer, EngineError>) {
        for reply in self.waiting.remove(operation).unwrap_or_default() {
            send(reply, answer.clone());
        }
    }
}

fn send(reply: Reply, answer: Result<Answer, EngineError>) {
    // The client may have gone; what it asked for was done all the same.
    let _ = reply.send(answer);
}

fn answer_of_the_gone(message: Message, view: &View) {
    let answer = if is_ending(&message.request) {
        Ok(Answer::Done)
    } else {
        Err(super::gone(&view.pod.id))
    };
    send(message.reply, answer);
}

/// Requests that hold of what does not exist.
fn is_ending(request: &Request) -> bool {
    matches!(
        request,
        Request::Stop | Request::Remove | Request::StopContainer(..) | Request::RemoveContainer(_)
    )
}

fn exit_reason(exit: Exit) -> &'static str {
    match exit {
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    }
}

fn word(phase: ContainerPhase) -> &'static str {
    match phase {
        ContainerPhase::Creating | ContainerPhase::Created => "created",
        ContainerPhase::Starting => "starting",
        ContainerPhase::Running => "running",
        ContainerPhase::Stopping => "stopping",
        ContainerPhase::Exited => "exited",
        ContainerPhase::Removing => "being removed",
    }
}

/// A client's number of seconds may be beyond what the clock can add: a century is for ever.
fn stop_deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(100 * 365 * 86_400))
}

pub(super) fn lock(ledger: &Mutex<Ledger<Object>>) -> std::sync::MutexGuard<'_, Ledger<Object>> {
    ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
