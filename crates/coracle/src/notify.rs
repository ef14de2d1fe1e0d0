//! Tells the service manager how the daemon fares: sd_notify(3) and its watchdog.
//!
//! The watchdog is fed only after the daemon has answered a call on its own socket: listener, gRPC and engine
//! have then all done their part. A daemon that hangs is restarted by the manager; pods run on.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::StatusRequest;
use tokio::task::JoinHandle;

/// How often a longer start asks for more time.
const STILL_STARTING: Duration = Duration::from_secs(5);
/// What it asks for each time.
const MORE_TIME: Duration = Duration::from_secs(30);
/// After so long it asks no more: what hangs shall be seen to hang.
const LONGEST_START: Duration = Duration::from_secs(15 * 60);

/// The service manager, when there is one; clones speak to the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manager(Option<Arc<Channel>>);

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long the manager waits for a sign of life before it acts.
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let text = |name: &str| std::env::var(name).ok();
        let watchdog = watchdog(
            text("WATCHDOG_USEC").as_deref(),
            text("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        match Channel::open(&name, watchdog) {
            Ok(channel) => Self(Some(Arc::new(channel))),
            Err(error) => {
                tracing::warn!(%error, socket = %name.display(), "the service manager is told nothing");
                Self::default()
            }
        }
    }

    /// Until what this gives is dropped, the manager is asked for more time, as recovery may take long.
    pub(crate) fn starting(&self) -> Starting {
        self.say("STATUS=Taking up the pods of the last run");
        let (end, ended) = mpsc::channel::<()>();
        let manager = self.clone();
        // A thread: opening what is on disk blocks the event loop.
        let thread = self.0.as_ref().and_then(|_| {
            let ask = move || {
                let mut asked = Duration::ZERO;
                while asked < LONGEST_START
                    && ended.recv_timeout(STILL_STARTING) == Err(mpsc::RecvTimeoutError::Timeout)
                {
                    asked += STILL_STARTING;
                    manager.say(&format!(
                        "EXTEND_TIMEOUT_USEC={}\nSTATUS=Taking up the pods of the last run, for {} s",
                        MORE_TIME.as_micros(),
                        asked.as_secs()
                    ));
                }
            };
            thread::Builder::new().name("starting".to_owned()).spawn(ask).ok()
        });
        Starting {
            end: Some(end),
            thread,
        }
    }

    /// Says that calls are answered, once one was.
    ///
    /// # Errors
    /// When the daemon does not answer itself.
    pub(crate) async fn ready(&self, socket: &Path) -> Result<(), ClientError> {
        if self.0.is_some() {
            ask(&mut None, socket).await?;
            self.answering(socket);
        }
        Ok(())
    }

    fn answering(&self, socket: &Path) {
        self.say(&format!(
            "READY=1\nSTATUS=Answering on {} (version {})",
            socket.display(),
            env!("CARGO_PKG_VERSION")
        ));
    }

    /// The configuration is being read again; [`Manager::reloaded`] ends it.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Reading the configuration again"
        ));
    }

    /// It was read, or refused.
    pub(crate) fn reloaded(&self, socket: &Path) {
        self.answering(socket);
    }

    /// The daemon leaves.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=Leaving; pods run on");
    }

    /// Feeds the watchdog, if the manager has one, for as long as the daemon answers on `socket`.
    pub(crate) fn watch(&self, socket: &Path) -> Option<JoinHandle<()>> {
        let limit = self.0.as_ref()?.watchdog?;
        let (manager, socket) = (self.clone(), socket.to_owned());
        Some(tokio::spawn(async move {
            let mut connection = None;
            let mut ticks = tokio::time::interval(limit / 3);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let asked = tokio::time::timeout(limit / 2, ask(&mut connection, &socket)).await;
                match asked {
                    Ok(Ok(())) => manager.say("WATCHDOG=1"),
                    Ok(Err(error)) => tracing::error!(%error, "the daemon does not answer itself"),
                    Err(_) => {
                        tracing::error!(after = ?limit / 2, "the daemon does not answer itself in time")
                    }
                }
            }
        }))
    }

    fn say(&self, state: &str) {
        if let Some(channel) = &self.0
            && let Err(error) = channel.socket.send_to_addr(state.as_bytes(), &channel.address)
        {
            tracing::warn!(%error, state, "the service manager does not listen");
        }
    }
}

/// A call that goes through the whole daemon, on one connection for as long as that holds.
async fn ask(connection: &mut Option<Client>, socket: &Path) -> Result<(), ClientError> {
    let client = match connection.take() {
        Some(client) => client,
        None => Client::connect(socket).await?,
    };
    client
        .runtime()
        .status(StatusRequest { verbose: false })
        .await
        .map_err(ClientError::of("Status"))?;
    *connection = Some(client);
    Ok(())
}

/// A start that is not over.
#[derive(Debug)]
pub(crate) struct Starting {
    end: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It is joined so that the daemon has one thread again.
            let _ = thread.join();
        }
    }
}

impl Channel {
    fn open(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::other(
                    "NOTIFY_SOCKET is neither a path nor an abstract name",
                ));
            }
        };
        Ok(Self {
            socket: UnixDatagram::unbound()?,
            address,
            watchdog,
        })
    }
}

/// The watchdog's time; `None` when it is off or meant for another process (sd_watchdog_enabled(3)).
fn watchdog(micros: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let micros: u64 = micros?.parse().ok()?;
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    (ours && micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(watchdog: Option<Duration>) -> (tempfile::TempDir, UnixDatagram, Manager) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let channel = Channel::open(path.as_os_str(), watchdog).unwrap();
        (directory, heard, Manager(Some(Arc::new(channel))))
    }

    fn next(heard: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = heard.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn the_manager_hears_each_word() {
        let (_directory, heard, manager) = manager(None);
        drop(manager.starting());
        assert!(next(&heard).starts_with("STATUS="));
        manager.reloaded(Path::new("/run/x.sock"));
        assert!(next(&heard).starts_with("READY=1\nSTATUS=Answering on /run/x.sock"));
        manager.reloading();
        assert!(next(&heard).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        manager.stopping();
        assert!(next(&heard).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        assert_eq!(
            watchdog(Some("3000000"), Some("7"), 7),
            Some(Duration::from_secs(3))
        );
        assert_eq!(watchdog(Some("3000000"), None, 7), Some(Duration::from_secs(3)));
        for (micros, pid) in [
            (Some("3000000"), Some("8")),
            (Some("0"), None),
            (None, None),
            (Some("x"), None),
        ] {
            assert_eq!(watchdog(micros, pid, 7), None);
        }
    }

    #[tokio::test]
    async fn a_daemon_that_nobody_reaches_does_not_feed_the_watchdog() {
        let (directory, heard, manager) = manager(Some(Duration::from_millis(30)));
        let socket = directory.path().join("silent");
        // It takes connections and never answers.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let feeding = manager.watch(&socket).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        feeding.abort();
        heard.set_nonblocking(true).unwrap();
        let silence = heard.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn ready_is_said_of_a_daemon_that_answers_only() {
        let (directory, heard, manager) = manager(None);
        assert!(manager.ready(&directory.path().join("nobody")).await.is_err());
        heard.set_nonblocking(true).unwrap();
        assert!(heard.recv(&mut [0; 16]).is_err());
        // Without a manager nobody is asked.
        assert!(Manager::default().ready(Path::new("/nobody")).await.is_ok());
    }

    #[test]
    fn an_abstract_name_is_understood_and_others_are_refused() {
        assert!(Channel::open(OsStr::new("@coracle-test"), None).is_ok());
        assert!(Channel::open(OsStr::new("vsock:2:1"), None).is_err());
    }
}
