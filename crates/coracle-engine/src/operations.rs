//! What is under way: each operation with its steps, its age and how many clients wait for it.
//!
//! An operation is entered when it begins and goes when its [`Entry`] is dropped; its steps are those of
//! [`Trace`](crate::trace::Trace), noted while they run. That costs a lock that nobody holds for long and an
//! entry in a small map, so it is always on. Reading never waits for an actor: a pod that hangs is exactly
//! what must be seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, PodSandboxId};
use tracing::Instrument as _;

/// Hears of every step and operation that ends, for histograms.
///
/// Called on the task that ran the step: it must neither block nor take long. A step's name is
/// `operation.step`, known at compile time, so there are a few dozen of them.
pub trait Observer: Send + Sync + 'static {
    /// A step ended, well or not.
    fn step(&self, name: &'static str, took: Duration);
    /// An operation ended, well or not; `took` begins when its first client asked.
    fn operation(&self, kind: &'static str, took: Duration);
}

/// Who must do something before a step can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The disk, or what lies on it.
    Disk,
    /// The keeper of the shims.
    Keeper,
    /// The pod's shim.
    Shim,
    /// A plugin of the network.
    Plugin,
    /// The container's own processes.
    Container,
    /// systemd.
    Systemd,
    /// A registry.
    Registry,
    /// Another operation of the same pod.
    Turn,
}

impl Awaited {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Keeper => "keeper",
            Self::Shim => "shim",
            Self::Plugin => "network plugin",
            Self::Container => "container",
            Self::Systemd => "systemd",
            Self::Registry => "registry",
            Self::Turn => "another operation",
        }
    }

    /// By a step's name; `None` for one that only computes.
    fn of_step(name: &str) -> Option<Self> {
        match name {
            "run.shim" => Some(Self::Keeper),
            "run.scope" | "start.scope" | "stop.scopes" | "update.scope" => Some(Self::Systemd),
            "run.network" | "stop.network" => Some(Self::Plugin),
            "run.namespaces" | "start.create" | "start.exec" | "exec.run" | "stop.containers"
            | "stop.sandbox" | "remove.processes" | "adopt.shim" | "adopt.tasks" | "log.reopen"
            | "update.shim" => Some(Self::Shim),
            "run.record" | "run.files" | "run.netns" | "create.bundle" | "start.prepare" | "remove.files"
            | "import.unpack" | "image.remove" | "image.prune" | "load.unpack" => Some(Self::Disk),
            "stop.container" => Some(Self::Container),
            "pull.image" | "push.image" | "save.gather" => Some(Self::Registry),
            QUEUE => Some(Self::Turn),
            _ => None,
        }
    }
}

/// The step of a request that waits for another operation of its pod.
pub(crate) const QUEUE: &str = "queue";

/// An operation under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Unique in this daemon's life; later operations have higher ones.
    pub id: u64,
    /// `run pod sandbox`, `pull image`, ...
    pub kind: &'static str,
    /// The pod it is for.
    pub pod: Option<PodSandboxId>,
    /// The container it is for.
    pub container: Option<ContainerId>,
    /// The name of what it is for: `namespace/pod`, `namespace/pod/container` or an image reference.
    pub name: String,
    /// When its first client asked.
    pub began: UnixNanos,
    /// Since then, by a clock that is never set.
    pub age: Duration,
    /// Clients that still wait for its end; one that passed its deadline does not.
    pub waiting: usize,
    /// What runs now, in the order of beginning.
    pub steps: Vec<RunningStep>,
}

/// A step that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningStep {
    /// `operation.step`.
    pub name: &'static str,
    /// Since its beginning.
    pub age: Duration,
    /// Who has to do something for it to end.
    pub awaits: Option<Awaited>,
}

tokio::task_local! {
    static CLIENT: Client;
}

/// A client that may have left by now.
#[derive(Debug, Clone)]
pub struct Client(Arc<AtomicBool>);

/// Held while a client waits: its end tells the engine that nobody does any more.
#[derive(Debug)]
pub struct Presence(Arc<AtomicBool>);

impl Client {
    /// A client that waits as long as the presence lives.
    #[must_use]
    pub fn arrived() -> (Self, Presence) {
        let waits = Arc::new(AtomicBool::new(true));
        (Self(Arc::clone(&waits)), Presence(waits))
    }

    /// Runs work that this client asked for.
    pub fn asking<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CLIENT.scope(self, work)
    }

    /// The client that the running task works for.
    pub(crate) fn current() -> Option<Self> {
        CLIENT.try_with(Clone::clone).ok()
    }

    fn waits(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What an operation is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject {
    pub(crate) pod: Option<PodSandboxId>,
    pub(crate) container: Option<ContainerId>,
    pub(crate) name: String,
}

impl Subject {
    /// Something that is known by name alone.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// All operations under way.
#[derive(Default)]
pub(crate) struct Operations {
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, Arc<Running>>>,
    observer: OnceLock<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Operations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operations").finish_non_exhaustive()
    }
}

impl Operations {
    /// Enters an operation that some client asked for at `since`.
    pub(crate) fn begin(self: &Arc<Self>, kind: &'static str, subject: Subject, since: Instant) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let running = Arc::new(Running {
            span: span_of(id, kind, &subject),
            kind,
            subject,
            since,
            open: Mutex::default(),
            board: Arc::clone(self),
        });
        lock(&self.running).insert(id, Arc::clone(&running));
        Entry { id, running }
    }

    /// Enters one that the running task's client asks for now.
    pub(crate) fn begin_for_client(self: &Arc<Self>, kind: &'static str, subject: Subject) -> Entry {
        let entry = self.begin(kind, subject, Instant::now());
        entry.joined(Client::current());
        entry
    }

    /// Has the observer hear of what ends from now on; only the first one is kept.
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = self.observer.set(observer);
    }

    pub(crate) fn list(&self) -> Vec<Operation> {
        let running: Vec<_> = lock(&self.running)
            .iter()
            .map(|(id, running)| (*id, Arc::clone(running)))
            .collect();
        let (now, clock) = (Instant::now(), UnixNanos::now());
        running
            .iter()
            .map(|(id, running)| running.status(*id, now, clock))
            .collect()
    }
}

/// At level error, so that the ids are there whatever is logged.
fn span_of(id: u64, kind: &'static str, subject: &Subject) -> tracing::Span {
    let span = tracing::error_span!(
        "operation",
        operation = kind,
        operation_id = id,
        subject = %subject.name,
        pod = tracing::field::Empty,
        container = tracing::field::Empty,
    );
    if let Some(pod) = &subject.pod {
        span.record("pod", pod.as_str());
    }
    if let Some(container) = &subject.container {
        span.record("container", container.as_str());
    }
    span
}

/// One operation while it runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Puts the ids into every record that is logged on the operation's behalf.
    span: tracing::Span,
    kind: &'static str,
    subject: Subject,
    since: Instant,
    open: Mutex<Open>,
    board: Arc<Operations>,
}

#[derive(Debug, Default)]
struct Open {
    steps: Vec<(u64, &'static str, Instant)>,
    next: u64,
    clients: Vec<Client>,
}

impl Running {
    /// Runs `future` as the step `name`.
    pub(crate) async fn step<F: Future>(&self, name: &'static str, future: F) -> F::Output {
        let _step = self.open_step(name);
        future.instrument(self.span.clone()).await
    }

    fn open_step(&self, name: &'static str) -> OpenStep<'_> {
        let began = Instant::now();
        let mut open = lock(&self.open);
        let token = open.next;
        open.next += 1;
        open.steps.push((token, name, began));
        OpenStep {
            running: self,
            token,
            name,
            began,
        }
    }

    fn status(&self, id: u64, now: Instant, clock: UnixNanos) -> Operation {
        let open = lock(&self.open);
        let age = now.saturating_duration_since(self.since);
        let nanos = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Operation {
            id,
            kind: self.kind,
            pod: self.subject.pod.clone(),
            container: self.subject.container.clone(),
            name: self.subject.name.clone(),
            began: UnixNanos(clock.0.saturating_sub(nanos)),
            age,
            waiting: open.clients.iter().filter(|client| client.waits()).count(),
            steps: open
                .steps
                .iter()
                .map(|(_, name, began)| RunningStep {
                    name,
                    age: now.saturating_duration_since(*began),
                    awaits: Awaited::of_step(name),
                })
                .collect(),
        }
    }
}

/// A step under way; it has ended when this is dropped, also because its task was.
struct OpenStep<'a> {
    running: &'a Running,
    token: u64,
    name: &'static str,
    began: Instant,
}

impl Drop for OpenStep<'_> {
    fn drop(&mut self) {
        lock(&self.running.open)
            .steps
            .retain(|(token, ..)| *token != self.token);
        if let Some(observer) = self.running.board.observer.get() {
            observer.step(self.name, self.began.elapsed());
        }
    }
}

/// Keeps an operation among those under way.
#[derive(Debug)]
pub(crate) struct Entry {
    id: u64,
    running: Arc<Running>,
}

impl Entry {
    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Another client waits for it, too.
    pub(crate) fn joined(&self, client: Option<Client>) {
        if let Some(client) = client {
            let mut open = lock(&self.running.open);
            // A client that retries for ever must not make this grow.
            open.clients.retain(Client::waits);
            open.clients.push(client);
        }
    }

    /// The one step of a request that waits for its turn.
    pub(crate) fn queue(&self) {
        let mut open = lock(&self.running.open);
        if open.steps.is_empty() {
            open.steps.push((0, QUEUE, Instant::now()));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let board = &self.running.board;
        lock(&board.running).remove(&self.id);
        let queued = lock(&self.running.open)
            .steps
            .iter()
            .any(|(_, name, _)| *name == QUEUE);
        if !queued && let Some(observer) = board.observer.get() {
            observer.operation(self.running.kind, self.running.since.elapsed());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl crate::Engine {
    /// What is under way, oldest first. Never waits.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.parts.operations.list()
    }

    /// Has `observer` hear of every step and operation that ends from now on. Only the first observer of an
    /// engine is kept.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.parts.operations.observe(observer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<&'static str>>);

    impl Observer for Heard {
        fn step(&self, name: &'static str, _: Duration) {
            lock(&self.0).push(name);
        }
        fn operation(&self, kind: &'static str, _: Duration) {
            lock(&self.0).push(kind);
        }
    }

    #[tokio::test]
    async fn a_hung_step_is_seen_while_it_hangs_and_gone_after() {
        let board = Arc::new(Operations::default());
        let heard = Arc::new(Heard::default());
        board.observe(Arc::clone(&heard) as Arc<dyn Observer>);
        let (client, presence) = Client::arrived();
        let entry = board.begin("run pod sandbox", Subject::named("ns/pod"), Instant::now());
        entry.joined(Some(client));
        let running = Arc::clone(entry.running());
        running
            .step("run.network", async {
                let seen = board.list();
                assert_eq!((seen[0].name.as_str(), seen[0].waiting), ("ns/pod", 1));
                assert_eq!(seen[0].steps[0].name, "run.network");
                assert_eq!(seen[0].steps[0].awaits, Some(Awaited::Plugin));
            })
            .await;
        drop(presence);
        let seen = board.list();
        assert_eq!((seen[0].waiting, seen[0].steps.len()), (0, 0));
        drop(entry);
        assert!(board.list().is_empty());
        assert_eq!(*lock(&heard.0), ["run.network", "run pod sandbox"]);
    }

    #[tokio::test]
    async fn a_step_whose_task_is_dropped_has_ended() {
        let board = Arc::new(Operations::default());
        let entry = board.begin("exec", Subject::default(), Instant::now());
        let cut = tokio::time::timeout(
            Duration::from_millis(1),
            entry.running().step("exec.run", std::future::pending::<()>()),
        );
        assert!(cut.await.is_err());
        assert!(board.list()[0].steps.is_empty());
    }

    #[tokio::test]
    async fn a_task_knows_whom_it_works_for() {
        assert!(Client::current().is_none());
        let (client, presence) = Client::arrived();
        client
            .asking(async {
                let current = Client::current().unwrap();
                assert!(current.waits());
                drop(presence);
                assert!(!current.waits());
            })
            .await;
    }
}
