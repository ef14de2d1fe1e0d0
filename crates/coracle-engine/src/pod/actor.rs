//! The actor: one task that owns a pod's state, decides by the policy and runs operations beside it.

mod endings;
mod link;
mod requests;
mod underway;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_store::Ledger;
use coracle_task::Shim;
use coracle_types::ContainerId;
use coracle_types::container::Exit;
use coracle_types::resources::LinuxResources;
use coracle_types::time::UnixNanos;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::underway::Waiting;
use super::sandbox::{NotStarted, PodContext, Started, TornDown};
use super::{Answer, Message, Reply, Request, View};
use crate::error::EngineError;
use crate::events::Told;
use crate::objects::Object;
use crate::parts::Parts;
use crate::policy::{ContainerPhase, PodPhase};
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
    /// A pod whose stop an earlier daemon began: it is brought to its end, if anything is left of it.
    Stop,
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
    Update(ContainerId),
    /// Another shim takes over.
    Adopt,
}

/// An operation that has ended.
pub(super) enum Finished {
    Run(Result<Started, NotStarted>),
    Stop(TornDown),
    Remove(TornDown),
    Create(ContainerId, Result<Box<ContainerRecord>, EngineError>),
    Start(ContainerId, Result<u32, EngineError>),
    StopContainer(ContainerId, Result<(), EngineError>),
    RemoveContainer(ContainerId, Result<(), EngineError>),
    Updated(ContainerId, Result<Box<LinuxResources>, EngineError>),
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

    /// Where it is once its removal has failed.
    fn phase_without_removal(&self) -> ContainerPhase {
        if *self.ended.borrow() {
            ContainerPhase::Exited
        } else if self.patience.is_some() {
            ContainerPhase::Stopping
        } else if self.record.started_at == UnixNanos::default() {
            ContainerPhase::Created
        } else {
            ContainerPhase::Running
        }
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
    waiting: HashMap<Operation, Waiting>,
    parked: Vec<Message>,
    /// What whoever follows events was told of.
    told: Told,
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
            told: Told::of(&view),
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
        self.publish();
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
            waiting,
            parts,
            view,
            mut told,
            ..
        } = self;
        parts.index.remove_pod(&view.pod.id, &view.pod.config.metadata);
        told.tell_end(&parts.events, &view);
        inbox.close();
        while let Ok(message) = inbox.try_recv() {
            answer_of_the_gone(message, &view);
        }
        for message in parked {
            answer_of_the_gone(message, &view);
        }
        // Whoever waited for the stop of a container that went with its pod: it is stopped.
        for reply in waiting.into_values().flat_map(|waiting| waiting.replies) {
            send(reply, Ok(Answer::Done));
        }
    }

    fn begin_life(&mut self, beginning: Beginning) {
        match beginning {
            Beginning::Run(reply) => {
                self.enlist(Operation::Run, reply);
                let context = self.context_of(&Operation::Run);
                self.operations
                    .push(Box::pin(async move { Finished::Run(context.run().await) }));
            }
            Beginning::Adopt => self.adopt(),
            Beginning::Clean => self.begin_remove(),
            Beginning::Stop if self.owns_objects() => self.begin_stop(),
            Beginning::Stop => {
                self.end_the_unknown();
                self.set_phase(PodPhase::Stopped);
            }
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

    fn set_phase(&mut self, phase: PodPhase) {
        Arc::make_mut(&mut self.view.pod).phase = phase;
        if let Err(error) = self.parts.records.put_pod(&self.view.pod) {
            tracing::error!(pod = %self.view.pod.id, %error, "its state is not on file");
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
        self.told.tell(&self.parts.events, &self.view);
    }

    fn answer(&mut self, operation: &Operation, answer: &Result<Answer, EngineError>) {
        // Whoever is answered must see what it was told.
        self.publish();
        let waiting = self.waiting.remove(operation);
        for reply in waiting.into_iter().flat_map(|waiting| waiting.replies) {
            send(reply, answer.clone());
        }
    }
}

fn send(reply: Reply, answer: Result<Answer, EngineError>) {
    reply.send(answer);
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
        Exit { lost: true, .. } => "Unknown",
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

#[cfg(test)]
mod tests;
