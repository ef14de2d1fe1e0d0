//! What happens to pods and containers, told to whoever follows.
//!
//! Events are the difference between what was told before and the view that an actor publishes, so every
//! path that changes a state tells of it once. They are built only while somebody follows. All followers
//! share one ring: one that falls behind by more than the ring holds hears so and is let go, and memory
//! does not grow with the number or the patience of followers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::api::PodStatus;
use crate::error::EngineError;
use crate::pod::View;
use crate::policy::{ContainerPhase, PodPhase};
use crate::record::ContainerRecord;

/// Events that a follower may be behind; a power of two, as the ring wants it.
const RING: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is there: a container that was made, a pod sandbox that is up.
    Created,
    /// Its process runs; a pod sandbox is ready.
    Started,
    /// Its process has ended; a pod sandbox is not ready any more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something happened to a pod sandbox or a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The container; `None` when it is about the pod sandbox itself.
    pub container: Option<ContainerId>,
    /// When.
    pub at: UnixNanos,
    /// The pod afterwards, with the containers that it then has.
    pub pod: PodStatus,
}

/// Where events go.
#[derive(Debug)]
pub(crate) struct Events(Mutex<Option<broadcast::Sender<Arc<Event>>>>);

impl Default for Events {
    fn default() -> Self {
        Self(Mutex::new(Some(broadcast::Sender::new(RING))))
    }
}

impl Events {
    fn sender(&self) -> MutexGuard<'_, Option<broadcast::Sender<Arc<Event>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_followers(&self) -> bool {
        self.sender()
            .as_ref()
            .is_some_and(|sender| sender.receiver_count() > 0)
    }

    fn send(&self, event: Event) {
        if let Some(sender) = &*self.sender() {
            // An error means that nobody follows any more.
            let _ = sender.send(Arc::new(event));
        }
    }

    /// What happens from now on.
    pub(crate) fn follow(&self) -> Following {
        Following(self.sender().as_ref().map(broadcast::Sender::subscribe))
    }

    /// Lets all followers go.
    pub(crate) fn end(&self) {
        self.sender().take();
    }
}

/// Events as they happen; the default one has ended.
#[derive(Debug, Default)]
pub struct Following(Option<broadcast::Receiver<Arc<Event>>>);

impl Following {
    /// The next event; `None` when the daemon is leaving. Events of one pod come in their order.
    ///
    /// # Errors
    /// `ResourceExhausted` when this follower fell behind and events are lost to it: list, then follow anew.
    pub async fn next(&mut self) -> Result<Option<Arc<Event>>, EngineError> {
        let Some(receiver) = &mut self.0 else {
            return Ok(None);
        };
        match receiver.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(RecvError::Closed) => Ok(None),
            Err(RecvError::Lagged(lost)) => {
                self.0 = None;
                let message = format!(
                    "the reader fell more than {RING} events behind and lost {lost}: list pods and containers, then follow anew"
                );
                Err(EngineError::new(
                    Kind::ResourceExhausted,
                    "follow events",
                    message,
                ))
            }
        }
    }
}

/// How far followers know something to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Absent,
    Created,
    Running,
    Ended,
}

/// What followers were told of one pod.
#[derive(Debug)]
pub(crate) struct Told {
    pod: Stage,
    containers: BTreeMap<ContainerId, Stage>,
}

type Change = (Option<ContainerId>, EventKind);

impl Told {
    /// All of a pod that was there before anybody could follow.
    pub(crate) fn of(view: &View) -> Self {
        let known = view
            .containers
            .iter()
            .map(|record| (record.id.clone(), stage_of(record, Stage::Absent)));
        Self {
            pod: pod_stage(view.pod.phase, Stage::Absent),
            containers: known.collect(),
        }
    }

    /// Tells what `view` has that was not told before.
    pub(crate) fn tell(&mut self, events: &Events, view: &View) {
        let changes = self.changes(view);
        send(events, view, changes);
    }

    /// Tells that the pod is gone with all in it.
    pub(crate) fn tell_end(&mut self, events: &Events, view: &View) {
        let changes = self.end();
        let mut last = view.clone();
        last.containers.clear();
        send(events, &last, changes);
    }

    fn changes(&mut self, view: &View) -> Vec<Change> {
        let mut changes = Vec::new();
        let stage = pod_stage(view.pod.phase, self.pod);
        steps(self.pod, stage, |kind| changes.push((None, kind)));
        self.pod = stage;
        for record in &view.containers {
            let told = self.containers.get(&record.id).copied().unwrap_or(Stage::Absent);
            let stage = stage_of(record, told);
            if stage == told {
                continue;
            }
            let from = if told < Stage::Running && record.reason == "StartError" {
                // It never ran.
                Stage::Running
            } else {
                told
            };
            if told == Stage::Absent {
                changes.push((Some(record.id.clone()), EventKind::Created));
            }
            steps(from.max(Stage::Created), stage, |kind| {
                changes.push((Some(record.id.clone()), kind));
            });
            self.containers.insert(record.id.clone(), stage);
        }
        if self.containers.len() > view.containers.len() {
            let there = |id: &ContainerId| view.containers.iter().any(|record| record.id == *id);
            let gone = self.containers.extract_if(.., |id, _| !there(id));
            for (id, told) in gone {
                ends(told, |kind| changes.push((Some(id.clone()), kind)));
            }
        }
        changes
    }

    fn end(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, told) in std::mem::take(&mut self.containers) {
            ends(told, |kind| changes.push((Some(id.clone()), kind)));
        }
        ends(self.pod, |kind| changes.push((None, kind)));
        self.pod = Stage::Absent;
        changes
    }
}

/// The events on the way from one stage to a later one.
fn steps(from: Stage, to: Stage, mut each: impl FnMut(EventKind)) {
    let ladder = [
        (Stage::Created, EventKind::Created),
        (Stage::Running, EventKind::Started),
        (Stage::Ended, EventKind::Stopped),
    ];
    for (stage, kind) in ladder {
        if from < stage && stage <= to {
            each(kind);
        }
    }
}

fn ends(told: Stage, mut each: impl FnMut(EventKind)) {
    if told == Stage::Running {
        each(EventKind::Stopped);
    }
    if told != Stage::Absent {
        each(EventKind::Deleted);
    }
}

fn pod_stage(phase: PodPhase, told: Stage) -> Stage {
    match phase {
        PodPhase::Starting => Stage::Absent,
        PodPhase::Ready | PodPhase::Draining | PodPhase::Stopping => Stage::Running,
        PodPhase::Stopped if told == Stage::Absent => Stage::Absent,
        PodPhase::Stopped => Stage::Ended,
        PodPhase::Removing => told,
    }
}

fn stage_of(record: &ContainerRecord, told: Stage) -> Stage {
    match record.phase {
        ContainerPhase::Creating => Stage::Absent,
        ContainerPhase::Created | ContainerPhase::Starting => Stage::Created,
        ContainerPhase::Running | ContainerPhase::Stopping => Stage::Running,
        ContainerPhase::Exited => Stage::Ended,
        ContainerPhase::Removing if record.finished_at != UnixNanos::default() => Stage::Ended,
        ContainerPhase::Removing => told,
    }
}

fn send(events: &Events, view: &View, changes: Vec<Change>) {
    if changes.is_empty() || !events.has_followers() {
        return;
    }
    let pod = crate::engine::pod_status(view);
    for (container, kind) in changes {
        events.send(Event {
            kind,
            container,
            at: UnixNanos::now(),
            pod: pod.clone(),
        });
    }
}

impl crate::Engine {
    /// What happens to pods and containers from now on.
    #[must_use]
    pub fn follow_events(&self) -> Following {
        self.parts.events.follow()
    }

    /// Ends what clients follow without end, because the daemon is leaving.
    pub fn end_streams(&self) {
        self.parts.events.end();
    }
}

#[cfg(test)]
mod tests;
