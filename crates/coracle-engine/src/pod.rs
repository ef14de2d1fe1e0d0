//! A pod's actor as the rest of the engine sees it: a mailbox to ask, a view to read.

mod actor;
mod containers;
mod create;
mod preflight;
mod recover;
mod remains;
mod sandbox;
mod scope;
mod stop;
mod update;
mod volumes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_store::{Ledger, LedgerError};
use coracle_task::Shim;
use coracle_types::container::ContainerConfig;
use coracle_types::resources::LinuxResources;
use coracle_types::{ContainerId, Kind, PodSandboxId};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

pub(crate) use self::actor::Beginning;
pub(crate) use self::sandbox::gather;
use crate::error::{EngineError, chain};
use crate::objects::Object;
use crate::operations::{Client, Entry};
use crate::parts::Parts;
use crate::policy::Repeat;
use crate::record::{ContainerRecord, PodRecord, io_failed, make_private_dir};
use crate::stats::Meters;
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
    /// UpdateContainerResources: the limits to change.
    Update(ContainerId, Arc<LinuxResources>),
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

/// Whom an answer goes to.
#[derive(Debug)]
pub(crate) struct Reply {
    sender: oneshot::Sender<Result<Answer, EngineError>>,
    client: Option<Client>,
    asked: Instant,
}

impl Reply {
    /// A reply to the client that the running task works for, and where the answer will be.
    pub(crate) fn awaited() -> (Self, oneshot::Receiver<Result<Answer, EngineError>>) {
        let (sender, answer) = oneshot::channel();
        let reply = Self {
            sender,
            client: Client::current(),
            asked: Instant::now(),
        };
        (reply, answer)
    }

    fn send(self, answer: Result<Answer, EngineError>) {
        // The client may have gone; what it asked for was done all the same.
        let _ = self.sender.send(answer);
    }
}

#[derive(Debug)]
pub(crate) struct Message {
    request: Request,
    reply: Reply,
    /// Set while it waits for another operation to end.
    queued: Option<Entry>,
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
    meters: Arc<Meters>,
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

    /// Earlier readings of what the pod and its containers use.
    pub(crate) fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Asks the actor. A caller that goes away leaves the operation to go on.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, EngineError> {
        let (reply, answer) = Reply::awaited();
        let message = Message {
            request,
            reply,
            queued: None,
        };
        if self.mailbox.send(message).await.is_err() {
            return Err(gone(&self.id));
        }
        answer.await.unwrap_or_else(|_| Err(gone(&self.id)))
    }
}

/// The pod went away between being found and being asked.
fn gone(id: &PodSandboxId) -> EngineError {
    EngineError::new(Kind::NotFound, "find", format!("pod sandbox {id} is gone"))
}

/// The pod's ledger. A damaged one, or that of a pod of which nothing else is known, is put aside or
/// completed: written anew with all that such a pod can own. What is noted and not there is removed by
/// doing nothing, what is there and not noted would stay for ever.
fn open_ledger(
    parts: &Parts,
    pod: &PodRecord,
    containers: &[ContainerRecord],
) -> Result<Ledger<Object>, EngineError> {
    let failed = EngineError::from_cause("open the ledger");
    let path = parts.records.pod_dir(&pod.id).join("ledger");
    let mut ledger = match Ledger::<Object>::open(&path) {
        Err(damage @ LedgerError::Damaged { .. }) => {
            tracing::error!(pod = %pod.id, error = %chain(&damage), "the ledger is written anew from the pod's record");
            std::fs::rename(&path, path.with_extension("damaged"))
                .map_err(|error| io_failed("put aside", &path, &error))?;
            Ledger::open(&path).map_err(&failed)?
        }
        Ok(ledger) if pod.quarantine.is_some() && pod.boot == parts.boot => ledger,
        // Its kernel objects went with the boot, its addresses are still reserved on disk.
        Ok(mut ledger) if pod.boot != parts.boot && pod.netns.is_some() => {
            make_private_dir(&parts.records.pod_dir(&pod.id))?;
            ledger
                .record([Object::Attachment { of: Vec::new() }])
                .map_err(&failed)?;
            return Ok(ledger);
        }
        other => return other.map_err(failed),
    };
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
    let scopes = [pod.id.as_str()]
        .into_iter()
        .map(|id| crate::cgroups::path_below(&parts.config, "", id))
        .chain(containers.iter().map(|container| container.cgroup.clone()))
        .filter_map(|cgroup| crate::cgroups::scope_at(&cgroup))
        .map(|(_, unit)| Object::Scope {
            unit: unit.to_string(),
        });
    let all = [Object::Shim, namespaces]
        .into_iter()
        .chain(scopes)
        .chain(network.into_iter().flatten())
        .chain(tasks);
    ledger.record(all).map_err(failed)?;
    Ok(ledger)
}

/// Starts the actor of a pod, which begins with `beginning`.
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
        meters: Arc::default(),
    };
    let span = tracing::error_span!("pod", pod = %view.pod.id);
    let actor = actor::Actor::new(Arc::clone(parts), view, ledger, trace, inbox, publish);
    tokio::spawn(actor.live(beginning).instrument(span));
    Ok(handle)
}
