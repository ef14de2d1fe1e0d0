//! The keeper's client: blocking calls, each a packet there and a packet back, bounded by a deadline.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use coracle_sys::seqpacket;
use coracle_types::PodSandboxId;
use rustix::net::sockopt::Timeout;

use crate::error::Error;
use crate::launch::{self, KeeperConfig};
use crate::socket;
use crate::wire::{DepositKey, OrphanExit, PACKET_MAX, Reply, Request};

/// The keeper answers within microseconds; when it does not within this, it is as good as gone.
const DEADLINE: Duration = Duration::from_secs(5);

/// A connection to a keeper. Calls from several threads take turns.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    connection: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// After a failed exchange a late answer could be taken for the next one's.
    broken: bool,
    buffer: Vec<u8>,
}

/// What a keeper says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperStatus {
    /// Its process.
    pub pid: i32,
    /// Pods with deposits.
    pub pods: usize,
    /// Shims it forked that live.
    pub shims: usize,
}

impl Keeper {
    /// Connects to the keeper at `socket`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when nothing listens there.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let connected = || -> io::Result<OwnedFd> {
            let connection = socket::connect(socket)?;
            for id in [Timeout::Recv, Timeout::Send] {
                rustix::net::sockopt::set_socket_timeout(&connection, id, Some(DEADLINE))?;
            }
            if !socket::peer_is_trusted(&connection)? {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "another user listens there",
                ));
            }
            Ok(connection)
        };
        let connection = connected().map_err(|source| Error::Unreachable {
            socket: socket.into(),
            source,
        })?;
        Ok(Self {
            path: socket.into(),
            connection: Mutex::new(Connection {
                socket: connection,
                broken: false,
                buffer: vec![0; PACKET_MAX],
            }),
        })
    }

    /// Connects to the keeper of this program version, started first if there is none; tells those of
    /// other versions to leave with their last pod.
    ///
    /// # Errors
    /// What keeps a keeper from being started, in words.
    pub fn ensure(config: &KeeperConfig) -> Result<Self, Error> {
        launch::ensure(config)
    }

    /// Where this keeper listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// Who it is and how much it holds.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<KeeperStatus, Error> {
        match self.call(&Request::Status, &[])?.0 {
            Reply::Status { pid, pods, shims } => Ok(KeeperStatus { pid, pods, shims }),
            other => Err(unexpected(&other)),
        }
    }

    /// Forks a shim for `pod`; its socket, `<state_dir>/shim.sock`, takes connections on return.
    ///
    /// # Errors
    /// `AlreadyExists` while the pod has a living shim of this keeper.
    pub fn spawn_shim(&self, pod: &PodSandboxId, state_dir: &Path, log: &str) -> Result<i32, Error> {
        let request = Request::Spawn {
            pod: pod.clone(),
            state_dir: state_dir.into(),
            log: log.to_owned(),
        };
        match self.call(&request, &[])?.0 {
            Reply::Spawned { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Kills the shim of `pod`, which the keeper forked; it may take a moment to be gone.
    ///
    /// # Errors
    /// `NotFound` when it has no living shim of that pod, `Unimplemented` for a keeper of an older program.
    pub fn kill_shim(&self, pod: &PodSandboxId) -> Result<(), Error> {
        self.call(&Request::Kill { pod: pod.clone() }, &[]).and_then(done)
    }

    /// The pods whose shims it forked that live, and those of which it holds anything.
    ///
    /// # Errors
    /// When it does not answer, `Unimplemented` for a keeper of an older program.
    pub fn pods(&self) -> Result<Vec<PodSandboxId>, Error> {
        match self.call(&Request::Pods, &[])?.0 {
            Reply::Pods { pods } => Ok(pods),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the keeper hold duplicates of `descriptors` under `key`, in place of what it held there.
    ///
    /// # Errors
    /// When it does not answer, or the pod has too many deposits.
    pub fn deposit(
        &self,
        pod: &PodSandboxId,
        key: &DepositKey,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let request = Request::Deposit {
            pod: pod.clone(),
            key: key.clone(),
            pid: None,
        };
        self.call(&request, descriptors).and_then(done)
    }

    /// Has it hold `descriptors`, the first of them the pidfd of `pid`, and keep the exit of that process
    /// should it become the keeper's child.
    ///
    /// # Errors
    /// As [`Keeper::deposit`].
    pub fn deposit_process(
        &self,
        pod: &PodSandboxId,
        key: &DepositKey,
        pid: i32,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let request = Request::Deposit {
            pod: pod.clone(),
            key: key.clone(),
            pid: Some(pid),
        };
        self.call(&request, descriptors).and_then(done)
    }

    /// The keys of a pod's deposits.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn keys(&self, pod: &PodSandboxId) -> Result<Vec<DepositKey>, Error> {
        match self.call(&Request::Keys { pod: pod.clone() }, &[])?.0 {
            Reply::Keys { keys } => Ok(keys),
            other => Err(unexpected(&other)),
        }
    }

    /// Duplicates of what is held under `key`; the keeper goes on holding it.
    ///
    /// # Errors
    /// `NotFound` when nothing is.
    pub fn copy(&self, pod: &PodSandboxId, key: &DepositKey) -> Result<Vec<OwnedFd>, Error> {
        let request = Request::Copy {
            pod: pod.clone(),
            key: key.clone(),
        };
        match self.call(&request, &[])? {
            (Reply::Copied { .. }, descriptors) => Ok(descriptors),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Has it close what is held under `key`, if anything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn withdraw(&self, pod: &PodSandboxId, key: &DepositKey) -> Result<(), Error> {
        self.call(
            &Request::Remove {
                pod: pod.clone(),
                key: key.clone(),
            },
            &[],
        )
        .and_then(done)
    }

    /// Has it close all of a pod's and forget its exits.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn forget(&self, pod: &PodSandboxId) -> Result<(), Error> {
        self.call(&Request::Forget { pod: pod.clone() }, &[])
            .and_then(done)
    }

    /// How the process deposited under `key` ended, if the keeper reaped it; told once.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn orphan_exit(&self, pod: &PodSandboxId, key: &DepositKey) -> Result<Option<OrphanExit>, Error> {
        match self
            .call(
                &Request::TakeExit {
                    pod: pod.clone(),
                    key: key.clone(),
                },
                &[],
            )?
            .0
        {
            Reply::Exit { exit } => Ok(exit),
            other => Err(unexpected(&other)),
        }
    }

    /// Has it leave as soon as it has neither shims nor deposits.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn retire(&self) -> Result<(), Error> {
        self.call(&Request::Retire, &[]).and_then(done)
    }

    /// Takes back [`Keeper::retire`]: its program is the daemon's again.
    ///
    /// # Errors
    /// When it does not answer, or is too old to know this.
    pub fn stay(&self) -> Result<(), Error> {
        self.call(&Request::Stay, &[]).and_then(done)
    }

    fn call(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let packet = serde_json::to_vec(request).map_err(|error| Error::Protocol(error.to_string()))?;
        if packet.len() > PACKET_MAX {
            return Err(Error::Protocol(format!(
                "a request of {} bytes, at most {PACKET_MAX}",
                packet.len()
            )));
        }
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (reply, received) =
            connection
                .exchange(&packet, descriptors)
                .map_err(|source| Error::Unreachable {
                    socket: self.path.clone(),
                    source,
                })?;
        match serde_json::from_slice(&reply).map_err(|error| Error::Protocol(error.to_string()))? {
            Reply::Failed { kind, message } => Err(Error::Refused { kind, message }),
            reply => Ok((reply, received)),
        }
    }
}

impl Connection {
    fn exchange(
        &mut self,
        packet: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        if self.broken {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "an earlier call failed",
            ));
        }
        self.broken = true;
        seqpacket::send(self.socket.as_fd(), packet, descriptors)?;
        let (length, received) = seqpacket::receive(self.socket.as_fd(), &mut self.buffer)?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection",
            ));
        }
        self.broken = false;
        Ok((self.buffer[..length].to_vec(), received))
    }
}

fn done((reply, _): (Reply, Vec<OwnedFd>)) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol(format!("an answer to another question: {reply:?}"))
}
