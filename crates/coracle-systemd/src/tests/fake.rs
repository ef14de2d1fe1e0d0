//! A manager that keeps units in a map and is as difficult as its mood says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};

use crate::connection::{DESTINATION, OBJECT};
use crate::{Systemd, Way};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Willing,
    FailsJobs,
    ForgetsJobs,
    /// The first unit is made and the connection cut before anybody is told.
    CutsAfterStart,
}

type Units = HashMap<String, HashMap<String, String>>;

#[derive(Debug)]
struct State {
    mood: Mood,
    units: Mutex<Units>,
    calls: Mutex<Vec<&'static str>>,
    connections: AtomicUsize,
    jobs: AtomicU32,
    /// Who listens, on a bus.
    subscribers: Mutex<Vec<String>>,
    cut: tokio::sync::Notify,
}

impl State {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            mood,
            units: Mutex::default(),
            calls: Mutex::default(),
            connections: AtomicUsize::new(0),
            jobs: AtomicU32::new(0),
            subscribers: Mutex::default(),
            cut: tokio::sync::Notify::new(),
        })
    }
}

/// A listening fake; its sockets go with it.
#[derive(Debug)]
pub(super) struct Fake {
    state: Arc<State>,
    directory: tempfile::TempDir,
}

impl Fake {
    pub(super) async fn start(mood: Mood) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("private")).unwrap();
        let state = State::new(mood);
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let guid = zbus::Guid::generate();
                let manager = Manager(Arc::clone(&shared));
                let builder = zbus::connection::Builder::unix_stream(stream)
                    .server(guid)
                    .unwrap()
                    .p2p();
                let connection = builder.serve_at(OBJECT, manager).unwrap();
                let connection = connection.serve_at("/unit", Unit).unwrap().build().await.unwrap();
                let cut = Arc::clone(&shared);
                tokio::spawn(async move {
                    cut.cut.notified().await;
                    let _ = connection.close().await;
                });
            }
        });
        Self { state, directory }
    }

    /// Serves on a connection to a bus instead, under systemd's name.
    pub(super) async fn serve(mood: Mood, bus: &zbus::Connection) -> Self {
        let state = State::new(mood);
        let manager = Manager(Arc::clone(&state));
        bus.object_server().at(OBJECT, manager).await.unwrap();
        bus.request_name(DESTINATION).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { state, directory }
    }

    pub(super) fn subscriber(&self) -> Option<String> {
        self.state.subscribers.lock().unwrap().last().cloned()
    }

    pub(super) fn systemd(&self) -> Systemd {
        Systemd::at(Way::Peer(self.directory.path().join("private")))
    }

    pub(super) fn unit(&self, name: &str) -> Option<HashMap<String, String>> {
        self.state.units.lock().unwrap().get(name).cloned()
    }

    pub(super) fn calls(&self, name: &str) -> usize {
        self.state
            .calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| **call == name)
            .count()
    }

    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    pub(super) fn cut(&self) {
        self.state.cut.notify_waiters();
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

struct Manager(Arc<State>);

struct Unit;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> &'static str {
        "active"
    }
}

fn shown(properties: Vec<(String, OwnedValue)>) -> HashMap<String, String> {
    let show = |value: OwnedValue| match &*value {
        Value::Array(array) => {
            let items: Vec<String> = array.iter().map(|item| format!("{item:?}")).collect();
            let digits = |text: &String| text.chars().filter(char::is_ascii_digit).collect::<String>();
            // The variant's name has digits of its own: U8(9), U32(42).
            let numbers = items
                .iter()
                .map(|text| digits(&text[text.find('(').unwrap_or(0)..].to_owned()));
            format!("[{}]", numbers.collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    };
    properties
        .into_iter()
        .map(|(name, value)| (name, show(value)))
        .collect()
}

impl Manager {
    fn note(&self, call: &'static str) {
        self.0.calls.lock().unwrap().push(call);
    }

    async fn end_job(&self, emitter: SignalEmitter<'_>, unit: &str) -> Result<OwnedObjectPath, Refusal> {
        let number = self.0.jobs.fetch_add(1, Ordering::Relaxed) + 1;
        let job = ObjectPath::try_from(format!("/job/{number}")).unwrap();
        let result = match self.0.mood {
            Mood::ForgetsJobs => return Ok(job.into()),
            Mood::FailsJobs => "failed",
            Mood::Willing | Mood::CutsAfterStart => "done",
        };
        Self::job_removed(&emitter, number, job.clone(), unit, result).await?;
        Ok(job.into())
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self, #[zbus(header)] header: Header<'_>) {
        let sender = header.sender().map(ToString::to_string);
        self.0.subscribers.lock().unwrap().extend(sender);
    }

    async fn start_transient_unit(
        &self,
        name: String,
        _mode: String,
        properties: Vec<(String, OwnedValue)>,
        _auxiliary: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.note("StartTransientUnit");
        let known = {
            let mut units = self.0.units.lock().unwrap();
            let known = units.contains_key(&name);
            if !known {
                units.insert(name.clone(), shown(properties));
            }
            known
        };
        if known {
            return Err(Refusal::UnitExists(format!("Unit {name} was already loaded")));
        }
        if self.0.mood == Mood::CutsAfterStart {
            self.0.cut.notify_waiters();
            return std::future::pending().await;
        }
        self.end_job(emitter, &name).await
    }

    async fn stop_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.note("StopUnit");
        if self.0.units.lock().unwrap().remove(&name).is_none() {
            return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")));
        }
        self.end_job(emitter, &name).await
    }

    fn set_unit_properties(
        &self,
        name: String,
        _runtime: bool,
        properties: Vec<(String, OwnedValue)>,
    ) -> Result<(), Refusal> {
        let mut units = self.0.units.lock().unwrap();
        let unit = units.get_mut(&name).ok_or(Refusal::NoSuchUnit(name))?;
        unit.extend(shown(properties));
        Ok(())
    }

    fn attach_processes_to_unit(&self, name: String, _below: String, pids: Vec<u32>) -> Result<(), Refusal> {
        let mut units = self.0.units.lock().unwrap();
        let unit = units.get_mut(&name).ok_or(Refusal::NoSuchUnit(name))?;
        unit.insert("PIDs".to_owned(), format!("{pids:?}"));
        Ok(())
    }

    fn reset_failed_unit(&self, name: String) -> Result<(), Refusal> {
        Err(Refusal::NoSuchUnit(name))
    }

    fn get_unit(&self, name: String) -> Result<OwnedObjectPath, Refusal> {
        if self.0.units.lock().unwrap().contains_key(&name) {
            return Ok(ObjectPath::try_from("/unit").unwrap().into());
        }
        Err(Refusal::NoSuchUnit(name))
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}
