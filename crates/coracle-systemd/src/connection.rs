//! One connection to PID 1: dialled, watched for its end and for the ends of jobs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use zbus::message::Type;
use zbus::{MatchRule, MessageStream};

use crate::error::Error;

pub(crate) const DESTINATION: &str = "org.freedesktop.systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(crate) const OBJECT: &str = "/org/freedesktop/systemd1";

/// Where systemd is met.
///
/// Its own socket (`/run/systemd/private`) would be a hop shorter, but it names itself in its messages as no peer of a
/// bus may, which zbus holds to be impossible and panics on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The system bus.
    Bus(PathBuf),
    /// A manager that listens itself.
    Peer(PathBuf),
}

impl Default for Way {
    fn default() -> Self {
        Self::Bus("/run/dbus/system_bus_socket".into())
    }
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<String>>>>;

/// A living connection, or one whose end nobody has noticed yet.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) bus: zbus::Connection,
    /// `None` where there is no bus between us.
    pub(crate) destination: Option<&'static str>,
    /// Units whose job somebody waits for; dropped when the connection ends, so that nobody waits for ever.
    waiting: Waiting,
    ended: Arc<std::sync::atomic::AtomicBool>,
}

impl Connection {
    pub(crate) async fn open(way: &Way) -> Result<Self, Error> {
        let (socket, destination) = match way {
            Way::Bus(socket) => (socket, Some(DESTINATION)),
            Way::Peer(socket) => (socket, None),
        };
        Self::dial(socket, destination)
            .await
            .map_err(|source| Error::Unreachable {
                socket: socket.clone(),
                source: Box::new(source),
            })
    }

    async fn dial(socket: &Path, destination: Option<&'static str>) -> zbus::Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| zbus::Error::InputOutput(Arc::new(error)))?;
        let builder = zbus::connection::Builder::unix_stream(stream);
        let bus = match destination {
            None => builder.p2p().build().await?,
            Some(_) => builder.build().await?,
        };
        let messages = match destination {
            None => MessageStream::from(&bus),
            Some(_) => {
                let rule = MatchRule::builder()
                    .msg_type(Type::Signal)
                    .interface(MANAGER)?
                    .member("JobRemoved")?
                    .build();
                MessageStream::for_match_rule(rule, &bus, None).await?
            }
        };
        let connection = Self {
            bus,
            destination,
            waiting: Arc::default(),
            ended: Arc::default(),
        };
        // Without it systemd sends no signals over a bus; to a peer it sends them always.
        connection
            .bus
            .call_method(destination, OBJECT, Some(MANAGER), "Subscribe", &())
            .await?;
        tokio::spawn(watch(
            messages,
            Arc::clone(&connection.waiting),
            Arc::clone(&connection.ended),
        ));
        Ok(connection)
    }

    /// Hears of the end of the unit's next job. To be asked before the job is: its end may be told at once.
    pub(crate) fn job_of(&self, unit: &str) -> oneshot::Receiver<String> {
        let (told, end) = oneshot::channel();
        lock(&self.waiting).insert(unit.to_owned(), told);
        if self.has_ended() {
            lock(&self.waiting).clear();
        }
        end
    }

    pub(crate) fn forget_job_of(&self, unit: &str) {
        lock(&self.waiting).remove(unit);
    }

    /// Whether the two are handles of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.waiting, &other.waiting)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(std::sync::atomic::Ordering::Acquire)
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<String, oneshot::Sender<String>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the connection ends.
async fn watch(mut messages: MessageStream, waiting: Waiting, ended: Arc<std::sync::atomic::AtomicBool>) {
    while let Some(Ok(message)) = messages.next().await {
        let header = message.header();
        if message.message_type() != Type::Signal
            || header.member().is_none_or(|member| member != "JobRemoved")
        {
            continue;
        }
        // Number, object, unit, result.
        type Removed<'a> = (u32, zbus::zvariant::ObjectPath<'a>, &'a str, &'a str);
        let body = message.body();
        if let Ok((_, _, unit, result)) = body.deserialize::<Removed<'_>>()
            && let Some(told) = lock(&waiting).remove(unit)
        {
            // Whoever waited may have given up.
            let _ = told.send(result.to_owned());
        }
    }
    ended.store(true, std::sync::atomic::Ordering::Release);
    lock(&waiting).clear();
}
