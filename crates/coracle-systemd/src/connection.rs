//! One connection to PID 1: dialled, watched for its end and for the ends of jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::net::UnixStream;
use zbus::message::{Header, Type};
use zbus::names::OwnedUniqueName;
use zbus::zvariant::ObjectPath;
use zbus::{Message, MessageStream};

use crate::error::Error;
use crate::jobs::{Asking, Jobs};

pub(crate) const DESTINATION: &str = "org.freedesktop.systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(crate) const OBJECT: &str = "/org/freedesktop/systemd1";
/// The bus daemon itself; nobody else can send by this name.
const BUS: &str = "org.freedesktop.DBus";
const BUS_OBJECT: &str = "/org/freedesktop/DBus";

/// What the bus is to hand on of what others hear, too. It says nothing of what comes: anybody may send a signal to us
/// alone, and no rule keeps it away.
const RULES: [&str; 2] = [
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',\
     interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.freedesktop.systemd1'",
];

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

/// A living connection, or one whose end nobody has noticed yet.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) bus: zbus::Connection,
    /// `None` where there is no bus between us.
    pub(crate) destination: Option<&'static str>,
    /// Closed when the connection ends, so that nobody waits for ever.
    jobs: Arc<Jobs>,
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
        // All that comes, in its order: who systemd is changes in between.
        let messages = MessageStream::from(&bus);
        if destination.is_some() {
            for rule in RULES {
                bus.call_method(Some(BUS), BUS_OBJECT, Some(BUS), "AddMatch", &rule)
                    .await?;
            }
        }
        // Without it systemd sends no signals over a bus; to a peer it sends them always.
        let subscribed = bus
            .call_method(destination, OBJECT, Some(MANAGER), "Subscribe", &())
            .await?;
        let systemd = match destination {
            None => Sender::Peer,
            Some(_) => Sender::Owner(
                subscribed
                    .header()
                    .sender()
                    .map(|sender| sender.to_owned().into()),
            ),
        };
        let jobs = Arc::new(Jobs::default());
        tokio::spawn(watch(messages, systemd, Arc::clone(&jobs)));
        Ok(Self {
            bus,
            destination,
            jobs,
        })
    }

    /// Hears of the end of a job of the unit. To be called before the job is asked for: its end may be told at once.
    pub(crate) fn ask(&self, unit: &str) -> Asking {
        self.jobs.ask(unit)
    }

    /// Whether the two are handles of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.jobs, &other.jobs)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.jobs.is_closed()
    }
}

/// Whose word counts.
#[derive(Debug)]
enum Sender {
    /// There is nobody else at the other end.
    Peer,
    /// Who owns systemd's name on the bus; another when systemd was executed anew.
    Owner(Option<OwnedUniqueName>),
}

impl Sender {
    fn sent(&self, header: &Header<'_>) -> bool {
        match self {
            Self::Peer => true,
            Self::Owner(owner) => owner
                .as_ref()
                .is_some_and(|owner| header.sender() == Some(&**owner)),
        }
    }

    /// Follows systemd's name.
    fn follow(&mut self, message: &Message) {
        let header = message.header();
        if let Self::Owner(owner) = self
            && is_signal(&header, BUS_OBJECT, BUS, "NameOwnerChanged")
            && header.sender().is_some_and(|sender| sender == BUS)
            && let Ok((name, _, new)) = message.body().deserialize::<(&str, &str, &str)>()
            && name == DESTINATION
        {
            *owner = OwnedUniqueName::try_from(new.to_owned()).ok();
        }
    }
}

fn is_signal(header: &Header<'_>, path: &str, interface: &str, member: &str) -> bool {
    header.message_type() == Type::Signal
        && header.path().is_some_and(|found| found == path)
        && header.interface().is_some_and(|found| found == interface)
        && header.member().is_some_and(|found| found == member)
}

/// Until the connection ends.
async fn watch(mut messages: MessageStream, mut systemd: Sender, jobs: Arc<Jobs>) {
    while let Some(Ok(message)) = messages.next().await {
        systemd.follow(&message);
        let header = message.header();
        if !is_signal(&header, OBJECT, MANAGER, "JobRemoved") || !systemd.sent(&header) {
            continue;
        }
        // Number, object, unit, result.
        type Removed<'a> = (u32, ObjectPath<'a>, &'a str, &'a str);
        if let Ok((_, job, unit, result)) = message.body().deserialize::<Removed<'_>>() {
            jobs.ended(&job, unit, result);
        }
    }
    jobs.close();
}
