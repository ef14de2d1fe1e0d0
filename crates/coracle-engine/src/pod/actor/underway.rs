//! The actor's operations as others see them: who waits for which, and which request waits for its turn.

use std::sync::Arc;
use std::time::Instant;

use coracle_types::ContainerId;
use coracle_types::resources::LinuxResources;

use super::{Actor, Finished, Operation};
use crate::operations::{Entry, Subject};
use crate::pod::sandbox::PodContext;
use crate::pod::{Message, Reply, Request};
use crate::policy::ContainerPhase;

/// An operation under way and the clients that its end will be told to.
pub(super) struct Waiting {
    pub(super) replies: Vec<Reply>,
    entry: Entry,
}

impl Operation {
    fn kind(&self) -> &'static str {
        match self {
            Self::Run => "run pod sandbox",
            Self::Stop => "stop pod sandbox",
            Self::Remove => "remove pod sandbox",
            Self::Create(_) => "create container",
            Self::Start(_) => "start container",
            Self::StopContainer(_) => "stop container",
            Self::RemoveContainer(_) => "remove container",
            Self::Update(_) => "update container resources",
            Self::Adopt => "take over pod sandbox",
        }
    }

    fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Run | Self::Stop | Self::Remove | Self::Adopt => None,
            Self::Create(id)
            | Self::Start(id)
            | Self::StopContainer(id)
            | Self::RemoveContainer(id)
            | Self::Update(id) => Some(id),
        }
    }
}

impl Actor {
    /// Has the reply told of the operation's end; the first one enters the operation.
    pub(super) fn enlist(&mut self, operation: Operation, reply: Reply) {
        let asked = reply.asked;
        let client = reply.client.clone();
        let waiting = self.enter(operation, asked);
        waiting.entry.joined(client);
        waiting.replies.push(reply);
    }

    fn enter(&mut self, operation: Operation, since: Instant) -> &mut Waiting {
        if !self.waiting.contains_key(&operation) {
            let subject = self.subject(operation.container());
            let entry = self.parts.operations.begin(operation.kind(), subject, since);
            let replies = Vec::new();
            self.waiting.insert(operation.clone(), Waiting { replies, entry });
        }
        self.waiting.get_mut(&operation).expect("entered above")
    }

    fn subject(&self, container: Option<&ContainerId>) -> Subject {
        let metadata = &self.view.pod.config.metadata;
        let mut name = format!("{}/{}", metadata.namespace, metadata.name);
        if let Some(container) = container.and_then(|id| self.containers.get(id)) {
            name.push('/');
            name.push_str(&container.record.config.metadata.name);
        }
        Subject {
            pod: Some(self.view.pod.id.clone()),
            container: container.cloned(),
            name,
        }
    }

    /// What an operation works with; its steps are seen as that operation's, which is entered by this when
    /// nobody asked for it.
    pub(super) fn context_of(&mut self, operation: &Operation) -> PodContext {
        let mut context = self.context();
        let waiting = self.enter(operation.clone(), Instant::now());
        context.trace = context.trace.of(Some(waiting.entry.running()));
        context
    }

    /// While limits are changed nothing else changes the container, nor ends its pod.
    pub(super) fn waits_for_update(&self, request: &Request) -> bool {
        let mut updated = self.waiting.keys().filter_map(|operation| match operation {
            Operation::Update(id) => Some(id),
            _ => None,
        });
        match request {
            Request::Stop | Request::Remove => updated.next().is_some(),
            Request::Start(id)
            | Request::StopContainer(id, _)
            | Request::RemoveContainer(id)
            | Request::Update(id, _) => updated.any(|updated| updated == id),
            Request::Run(_) | Request::Create(_) | Request::Use(_) => false,
        }
    }

    pub(super) fn begin_update(&mut self, id: ContainerId, asked: Arc<LinuxResources>, reply: Reply) {
        let runs = |phase| phase == ContainerPhase::Running;
        let record = match self.containers.get(&id) {
            Some(container) => Arc::clone(&container.record),
            None => return super::send(reply, Err(crate::pod::gone(&self.view.pod.id))),
        };
        let shim = match runs(record.phase).then(|| self.shim()).transpose() {
            Ok(shim) => shim,
            Err(error) => return super::send(reply, Err(error)),
        };
        let operation = Operation::Update(id.clone());
        self.enlist(operation.clone(), reply);
        let context = self.context_of(&operation);
        self.operations.push(Box::pin(async move {
            let updated = context.update(shim, &record, &asked).await;
            Finished::Updated(id, updated.map(Box::new))
        }));
    }

    /// Puts a request aside until an operation has ended, where it is seen to wait.
    pub(super) fn park(&mut self, mut message: Message) {
        if message.queued.is_none() {
            let (kind, container) = match &message.request {
                Request::Run(_) => ("run pod sandbox", None),
                Request::Stop => ("stop pod sandbox", None),
                Request::Remove => ("remove pod sandbox", None),
                Request::Create(_) => ("create container", None),
                Request::Start(id) => ("start container", Some(id)),
                Request::StopContainer(id, _) => ("stop container", Some(id)),
                Request::RemoveContainer(id) => ("remove container", Some(id)),
                Request::Use(id) => ("use container", Some(id)),
                Request::Update(id, _) => ("update container resources", Some(id)),
            };
            let subject = self.subject(container);
            let entry = self.parts.operations.begin(kind, subject, message.reply.asked);
            entry.joined(message.reply.client.clone());
            entry.queue();
            message.queued = Some(entry);
        }
        self.parked.push(message);
    }
}
