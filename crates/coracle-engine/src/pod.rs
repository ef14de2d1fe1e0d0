//! A pod's actor as the rest of the engine sees it: a mailbox to ask, a view to read.

mod actor;
mod containers;
mod create;
mod recover;
mod sandbox;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use coracle_store::{Ledger, LedgerError};
use coracle_task::Shim;
use coracle_types::container::ContainerConfig;
use coracle_types::{ContainerId, Kind, PodSandboxId};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::actor::Beginning;
pub(crate) use self::sandbox::gather;
use crate::error::{EngineError, chain};
use crate::objects::Object;
use crate::parts::Parts;
use crate::policy::Repeat;
use crate::record::{ContainerRecord, PodRecord, io_failed};
use crate::trace::Trace;

/// Requests that wait in a pod's mailbox at most; further ones wait at their sender.
const MAILBOX: usize = 128;

/// What a pod is asked.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// RunPodSandbox, of this pod's name.
    Run(Repeat),
    /// StopPodSandbox.
    Stop,
    /// RemovePodSandbox.
    Remove,
    /// CreateContainer.
    Create(Arc<ContainerConfig>),
    /// StartContainer.
    Start(ContainerId),
    /// StopContainer: how long the process may take after its stop signal.
    StopContainer(ContainerId, Duration),
    /// RemoveContainer.
    RemoveContainer(ContainerId),
    /// The shim of a running container, for what changes nothing.
    Use(ContainerId),
}

/// What a pod answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It holds.
    Done,
    /// The new container, or the one that an equal request made.
    Container(ContainerId),
    /// The shim to talk to.
    Shim(Shim),
}

pub(crate) type Reply = oneshot::Sender<Result<Answer, EngineError>>;

#[derive(Debug)]
pub(crate) struct Message {
    request: Request,
    reply: Reply,
}

/// A pod and its containers at one moment; cheap to publish and to hold.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) pod: Arc<PodRecord>,
    pub(crate) containers: Vec<Arc<ContainerRecord>>,
}

/// The way to a pod's actor.
#[derive(Debug, Clone)]
pub(crate) struct PodHandle {
    id: PodSandboxId,
    mailbox: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<View>>,
    trace: Trace,
}

impl PodHandle {
    pub(crate) fn id(&self) -> &PodSandboxId {
        &self.id
    }

    /// The pod as it is now; never waits for the actor.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Asks the actor. A caller that goes away leaves the operation to go on.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, EngineError> {
        let (reply, answer) = oneshot::channel();
        if self.mailbox.send(Message { request, reply }).await.is_err() {
            return Err(gone(&self.id));
        }
        answer.await.unwrap_or_else(|_| Err(gone(&self.id)))
    }
}

/// The pod went away between being found and being asked.
fn gone(id: &PodSandboxId) -> EngineError {
    EngineError::new(Kind::NotFound, "find", format!("pod sandbox {id} is gone"))
}

/// The pod's ledger. A damaged one is put aside and written anew with all that such a pod can own: what
/// is noted and not there is removed by doing nothing, what is there and not noted would stay for ever.
fn open_ledger(
    parts: &Parts,
    pod: &PodRecord,
    containers: &[ContainerRecord],
) -> Result<Ledger<Object>, EngineError> {
    let failed = EngineError::from_cause("open the ledger");
    let path = parts.records.pod_dir(&pod.id).join("ledger");
    let damage = match Ledger::<Object>::open(&path) {
        Err(damage @ LedgerError::Damaged { .. }) => damage,
        other => return other.map_err(failed),
    };
    tracing::error!(pod = %pod.id, error = %chain(&damage), "the ledger is written anew from the pod's record");
    std::fs::rename(&path, path.with_extension("damaged"))
        .map_err(|error| io_failed("put aside", &path, &error))?;
    let mut ledger = Ledger::open(&path).map_err(&failed)?;
    let namespaces = Object::Namespaces {
        path: parts.records.pod_dir(&pod.id).join("ns"),
    };
    let network = pod
        .netns
        .clone()
        .map(|path| [Object::Netns { path }, Object::Attachment { of: Vec::new() }]);
    let tasks = containers.iter().map(|container| Object::Task {
        container: container.id.clone(),
        cgroup: container.cgroup.clone(),
    });
    let all = [Object::Shim, namespaces]
        .into_iter()
        .chain(network.into_iter().flatten())
        .chain(tasks);
    ledger.record(all).map_err(failed)?;
    Ok(ledger)
}

/// Starts the actor of a pod; `first` is answered when its start is through.
///
/// # Errors
/// When the pod's ledger cannot be read.
pub(crate) fn spawn(
    parts: &Arc<Parts>,
    pod: PodRecord,
    containers: Vec<ContainerRecord>,
    beginning: Beginning,
) -> Result<PodHandle, EngineError> {
    let ledger = open_ledger(parts, &pod, &containers)?;
    let trace = if pod.steps.is_empty() {
        Trace::default()
    } else {
        Trace::resumed(pod.steps.clone())
    };
    let (mailbox, inbox) = mpsc::channel(MAILBOX);
    let view = View {
        pod: Arc::new(pod),
        containers: containers.into_iter().map(Arc::new).collect(),
    };
    let (publish, seen) = watch::channel(Arc::new(view.clone()));
    let handle = PodHandle {
        id: view.pod.id.clone(),
        mailbox,
        view: seen,
        trace: trace.clone(),
    };
    let actor = actor::Actor::new(Arc::clone(parts), view, ledger, trace, inbox, publish);
    tokio::spawn(actor.live(beginning));
    Ok(handle)
}
