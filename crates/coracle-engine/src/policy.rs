//! What is legal in which state, what joins what and what waits for what: pure, no IO, no clock.
//!
//! A phase that ends in -ing stands for an operation under way; the actor never begins two
//! operations on one subject because every verdict on such a phase is to join, wait or refuse.
//!
//! ```text
//!  pod        Starting ──> Ready ──> Draining ──> Stopping ──> Stopped ──> Removing ──> (gone)
//!                 └──(failed: rolled back)──────────────────────────────────────────────> (gone)
//!  container  Creating ─> Created ─> Starting ─> Running <─> Stopping ─> Exited ─> Removing ─> (gone)
//! ```

use serde::{Deserialize, Serialize};

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodPhase {
    /// RunPodSandbox is under way.
    Starting,
    /// It takes containers.
    Ready,
    /// A stop waits for containers that are just being made or started; nothing new begins.
    Draining,
    /// StopPodSandbox is under way.
    Stopping,
    /// Its containers have ended; `leftovers` say whether all its kernel objects went.
    Stopped,
    /// RemovePodSandbox is under way.
    Removing,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// CreateContainer is under way.
    Creating,
    /// It can be started.
    Created,
    /// StartContainer is under way.
    Starting,
    /// Its first process lives.
    Running,
    /// StopContainer is under way.
    Stopping,
    /// Its first process has ended.
    Exited,
    /// RemoveContainer is under way.
    Removing,
}

/// Whether a stopped pod still owns kernel objects because an earlier stop failed on some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leftovers {
    /// All are gone.
    None,
    /// The ledger is not empty.
    Some,
}

/// Whether a repeated request asks for the same as the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Field for field.
    Same,
    /// Something differs.
    Differs,
}

/// A request that concerns a pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodRequest {
    /// RunPodSandbox of a name that exists already.
    RunAgain(Repeat),
    /// StopPodSandbox.
    Stop,
    /// RemovePodSandbox.
    Remove,
    /// CreateContainer of a name that is free.
    Create,
}

/// A request that concerns a container that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerRequest {
    /// CreateContainer of the same name and attempt.
    CreateAgain(Repeat),
    /// StartContainer.
    Start,
    /// StopContainer.
    Stop,
    /// RemoveContainer.
    Remove,
    /// ExecSync, ReopenContainerLog: needs a running container and changes nothing.
    Use,
    /// UpdateContainerResources: until it has ended the container is not otherwise changed.
    Update,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The pod takes no containers (any more).
    PodNotReady,
    /// The name is taken by something else.
    NameTaken,
    /// The container is past its start.
    NotCreated,
    /// The container does not run.
    NotRunning,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// An operation begins.
    Begin,
    /// The operation of the same sort that is under way answers this request, too.
    Join,
    /// It holds already.
    Done,
    /// Asked again when an operation of this pod has ended.
    Wait,
    /// It cannot be.
    Refuse(Refusal),
}

/// The verdict on a request to a pod in `phase` with containers in `containers`.
pub fn pod(
    request: PodRequest,
    phase: PodPhase,
    leftovers: Leftovers,
    mut containers: impl Iterator<Item = ContainerPhase>,
) -> Verdict {
    match (request, phase) {
        (PodRequest::RunAgain(Repeat::Differs), _) => Verdict::Refuse(Refusal::NameTaken),
        (PodRequest::RunAgain(Repeat::Same), PodPhase::Starting) => Verdict::Join,
        (PodRequest::RunAgain(Repeat::Same), PodPhase::Ready) => Verdict::Done,
        (PodRequest::RunAgain(Repeat::Same), _) => Verdict::Refuse(Refusal::NameTaken),

        (PodRequest::Create, PodPhase::Ready) => Verdict::Begin,
        (PodRequest::Create, _) => Verdict::Refuse(Refusal::PodNotReady),

        (PodRequest::Stop, PodPhase::Stopping) | (PodRequest::Remove, PodPhase::Removing) => Verdict::Join,
        (PodRequest::Stop, PodPhase::Stopped) if leftovers == Leftovers::None => Verdict::Done,
        (
            PodRequest::Stop | PodRequest::Remove,
            PodPhase::Starting | PodPhase::Stopping | PodPhase::Removing,
        ) => Verdict::Wait,
        (PodRequest::Stop | PodRequest::Remove, PodPhase::Ready | PodPhase::Draining | PodPhase::Stopped) => {
            if containers.any(is_being_made_or_removed) {
                Verdict::Wait
            } else {
                Verdict::Begin
            }
        }
    }
}

/// A stop of the pod lets these end first: each is short, and cutting one would need a second way to
/// undo it.
fn is_being_made_or_removed(phase: ContainerPhase) -> bool {
    matches!(
        phase,
        ContainerPhase::Creating | ContainerPhase::Starting | ContainerPhase::Removing
    )
}

/// The verdict on a request to a container in `phase` of a pod in `pod`.
#[must_use]
pub fn container(request: ContainerRequest, pod: PodPhase, phase: ContainerPhase) -> Verdict {
    use ContainerPhase as Phase;
    use ContainerRequest as Request;

    match (request, phase) {
        (Request::CreateAgain(Repeat::Differs), _) => Verdict::Refuse(Refusal::NameTaken),
        (Request::CreateAgain(Repeat::Same), Phase::Creating) => Verdict::Join,
        (Request::CreateAgain(Repeat::Same), Phase::Created) => Verdict::Done,
        (Request::CreateAgain(Repeat::Same), _) => Verdict::Refuse(Refusal::NameTaken),

        (Request::Use, Phase::Running | Phase::Stopping) if pod != PodPhase::Stopping => Verdict::Done,
        (Request::Use, Phase::Starting) => Verdict::Wait,
        (Request::Use, _) => Verdict::Refuse(Refusal::NotRunning),

        (Request::Start, Phase::Starting) => Verdict::Join,
        (Request::Start, _) if pod != PodPhase::Ready => Verdict::Refuse(Refusal::PodNotReady),
        (Request::Start, Phase::Created) => Verdict::Begin,
        (Request::Start, Phase::Creating) => Verdict::Wait,
        (Request::Start, _) => Verdict::Refuse(Refusal::NotCreated),

        (Request::Update, Phase::Creating | Phase::Starting | Phase::Stopping | Phase::Removing) => {
            Verdict::Wait
        }
        (Request::Update, _) if matches!(pod, PodPhase::Stopping | PodPhase::Removing) => Verdict::Wait,
        (Request::Update, Phase::Created | Phase::Running | Phase::Exited) => Verdict::Begin,

        (Request::Stop, Phase::Created | Phase::Exited) => Verdict::Done,
        (Request::Remove, Phase::Removing) => Verdict::Join,
        // The pod's own stop or removal sees to its containers.
        (Request::Stop | Request::Remove, _) if matches!(pod, PodPhase::Stopping | PodPhase::Removing) => {
            Verdict::Wait
        }
        (Request::Stop, Phase::Running) => Verdict::Begin,
        (Request::Stop, Phase::Stopping) => Verdict::Join,
        (Request::Stop, Phase::Creating | Phase::Starting | Phase::Removing)
        | (Request::Remove, Phase::Creating | Phase::Starting) => Verdict::Wait,
        // A removal does not wait for a patient stop: it supersedes it.
        (Request::Remove, Phase::Created | Phase::Running | Phase::Stopping | Phase::Exited) => {
            Verdict::Begin
        }
    }
}

#[cfg(test)]
mod tests;
