//! The keeper's process: arguments, becoming a daemon, and the poll loop.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use coracle_sys::fork::{self, Forked};
use coracle_sys::seqpacket;
use coracle_sys::signalfd::SignalFd;
use coracle_types::{Instance, Kind, PodSandboxId};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::net::{SocketFlags, SocketType};
use rustix::process::{Pid, Resource, Signal};

use crate::cgroup;
use crate::error::Error;
use crate::held::{Held, Refusal};
use crate::launch;
use crate::socket;
use crate::spawn::{Nursery, ShimStart, set_name};
use crate::wire::{PACKET_MAX, Reply, Request};

/// One a shim and a few of the daemon's; a flood is refused, not served.
const CONNECTIONS_MAX: usize = 8192;
/// Below the container processes, above none: the kernel shall take anything rather than this.
const OOM_SCORE: &str = "-999";

/// What the keeper's role is told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperArgs {
    /// Where it listens.
    pub socket: PathBuf,
    /// Its absolute cgroup; empty to stay where it is.
    pub cgroup: String,
    /// Whose keeper it is.
    pub instance: Instance,
}

impl KeeperArgs {
    /// As they follow the role's name on the command line.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<OsString> {
        vec![
            "--socket".into(),
            self.socket.clone().into(),
            "--cgroup".into(),
            self.cgroup.clone().into(),
            "--instance".into(),
            self.instance.as_str().into(),
        ]
    }

    /// Reads what [`KeeperArgs::to_arguments`] wrote.
    ///
    /// # Errors
    /// Names the argument that is missing, unknown or wrong.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let (mut socket, mut cgroup, mut instance) = (None, None, None);
        while let Some(name) = arguments.next() {
            let value = arguments.next();
            match name.to_str() {
                Some("--socket") => socket = value,
                Some("--cgroup") => cgroup = value,
                Some("--instance") => instance = value,
                _ => return Err(wrong("", format!("{} is not known", name.display()))),
            }
        }
        let text = |argument: &'static str, value: Option<OsString>| {
            value
                .ok_or_else(|| wrong(argument, "is missing".into()))?
                .into_string()
                .map_err(|_| wrong(argument, "is not UTF-8".into()))
        };
        let cgroup = text("--cgroup", cgroup)?;
        if cgroup.split('/').any(|part| part == "..") {
            return Err(wrong(
                "--cgroup",
                format!("{cgroup:?} leaves its hierarchy; give an absolute path"),
            ));
        }
        Ok(Self {
            socket: socket
                .ok_or_else(|| wrong("--socket", "is missing".into()))?
                .into(),
            cgroup,
            instance: text("--instance", instance)?
                .parse()
                .map_err(|error: coracle_types::MalformedId| wrong("--instance", error.to_string()))?,
        })
    }
}

fn wrong(argument: &'static str, problem: String) -> Error {
    Error::Argument { argument, problem }
}

/// The role's body. The calling process must have one thread. It returns control to its starter, by ending,
/// once the keeper listens in a process and session of its own.
pub fn run(arguments: impl Iterator<Item = OsString>, shim_entry: fn(ShimStart) -> i32) -> ! {
    let started = KeeperArgs::parse(arguments).and_then(|args| Keeper::start(args, shim_entry));
    match started {
        Ok(Started::Waiting) => std::process::exit(0),
        Ok(Started::Keeper(mut keeper)) => loop {
            if let Err(error) = keeper.turn() {
                say(&format!("{error}"));
            }
        },
        Err(error) => {
            say(&format!("{error}"));
            std::process::exit(1)
        }
    }
}

fn say(what: &str) {
    // Standard error is the log file; where it cannot be written there is nowhere to say so.
    let _ = writeln!(io::stderr(), "keeper: {what}");
}

enum Started {
    /// The process that the starter waits for.
    Waiting,
    Keeper(Box<Keeper>),
}

struct Keeper {
    args: KeeperArgs,
    listener: OwnedFd,
    signals: SignalFd,
    connections: Vec<OwnedFd>,
    held: Held,
    nursery: Nursery,
    retiring: bool,
    buffer: Vec<u8>,
}

impl Keeper {
    fn start(args: KeeperArgs, shim_entry: fn(ShimStart) -> i32) -> Result<Started, Error> {
        rustix::process::chdir("/").map_err(Error::system("chdir to /"))?;
        for problem in cgroup_problems(&args.cgroup) {
            say(&format!("cgroup {}: {problem}", args.cgroup));
        }
        let listener = socket::listen(&args.socket, SocketType::SEQPACKET, SocketFlags::NONBLOCK)
            .map_err(Error::path("bind and listen on", &args.socket))?;
        if let Forked::Parent(_) = fork::fork().map_err(Error::fork("fork the keeper"))? {
            return Ok(Started::Waiting);
        }
        rustix::process::setsid().map_err(Error::system("setsid"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(Error::system("become subreaper"))?;
        let signals = SignalFd::new(&[rustix::process::Signal::CHILD.as_raw()])
            .map_err(Error::system("open a signalfd"))?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        // Refused without CAP_SYS_RESOURCE when it would go down; nothing depends on it.
        let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        let own = rustix::process::getrlimit(Resource::Nofile);
        let raised = rustix::process::Rlimit {
            current: own.maximum,
            ..own
        };
        // Where the daemon has raised its own limit, that is not the one for shims and containers.
        let told = std::env::var(launch::OPEN_FILES).ok();
        let open_files = told.as_deref().and_then(launch::parse_limit).unwrap_or(own);
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
        set_name(c"coracle-keeper", &format!("coracle-keeper {}", args.instance));
        Ok(Started::Keeper(Box::new(Self {
            nursery: Nursery {
                keeper: args.socket.clone(),
                entry: shim_entry,
                open_files,
            },
            args,
            listener,
            signals,
            connections: Vec::new(),
            held: Held::default(),
            retiring: false,
            buffer: vec![0; PACKET_MAX],
        })))
    }

    /// Waits for something to happen and deals with all of it.
    fn turn(&mut self) -> Result<(), Error> {
        let ready: Vec<bool> = {
            let mut polled = Vec::with_capacity(self.connections.len() + 2);
            polled.push(PollFd::new(&self.signals, PollFlags::IN));
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
            polled.extend(
                self.connections
                    .iter()
                    .map(|connection| PollFd::new(connection, PollFlags::IN)),
            );
            match rustix::event::poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => return Ok(()),
                other => other.map_err(Error::system("poll"))?,
            };
            polled.iter().map(|polled| !polled.revents().is_empty()).collect()
        };
        if ready[0] {
            while self
                .signals
                .take()
                .map_err(Error::system("read the signalfd"))?
                .is_some()
            {}
            self.held.reap();
        }
        let connections = std::mem::take(&mut self.connections);
        for (connection, ready) in connections.into_iter().zip(&ready[2..]) {
            if !ready || self.serve(&connection) {
                self.connections.push(connection);
            }
        }
        if ready[1] {
            self.accept();
        }
        if self.retiring && self.held.is_empty() {
            self.leave();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(connection) = rustix::net::accept_with(&self.listener, flags) {
            if self.connections.len() < CONNECTIONS_MAX
                && socket::peer_is_trusted(&connection).unwrap_or(false)
            {
                self.connections.push(connection);
            }
        }
    }

    /// Answers one packet; `false` when the connection is to be closed.
    fn serve(&mut self, connection: &OwnedFd) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = seqpacket::receive(connection.as_fd(), &mut buffer);
        let kept = match received {
            Ok((0, _)) => false,
            Ok((length, descriptors)) => match serde_json::from_slice(&buffer[..length]) {
                Ok(request) => self.answer(connection, request, descriptors),
                Err(error) => {
                    let message = format!("the request is not understood: {error}");
                    reply(
                        connection,
                        &Reply::Failed {
                            kind: Kind::Unimplemented,
                            message,
                        },
                        &[],
                    )
                }
            },
            Err(error) => error == rustix::io::Errno::AGAIN,
        };
        self.buffer = buffer;
        kept
    }

    fn answer(&mut self, connection: &OwnedFd, request: Request, descriptors: Vec<OwnedFd>) -> bool {
        if let Request::Copy { pod, key } = &request {
            return match self.held.get(pod, key) {
                Ok(deposit) => {
                    let descriptors: Vec<_> = deposit.descriptors.iter().map(|fd| fd.as_fd()).collect();
                    reply(connection, &Reply::Copied { pid: deposit.pid }, &descriptors)
                }
                Err((kind, message)) => reply(connection, &Reply::Failed { kind, message }, &[]),
            };
        }
        let answer = self
            .handle(request, descriptors)
            .unwrap_or_else(|(kind, message)| Reply::Failed { kind, message });
        reply(connection, &answer, &[])
    }

    fn handle(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply, Refusal> {
        match request {
            Request::Status => {
                let (pods, shims) = self.held.counts();
                let pid = rustix::process::getpid().as_raw_nonzero().get();
                return Ok(Reply::Status { pid, pods, shims });
            }
            Request::Spawn { pod, state_dir, log } => {
                // A shim that was killed a moment ago must not be in the way of its successor.
                self.held.reap();
                if let Some(pid) = self.held.shim_of(&pod) {
                    return Err((
                        Kind::AlreadyExists,
                        format!("pod {pod} has a shim, process {pid}"),
                    ));
                }
                let pid = self
                    .nursery
                    .spawn(&pod, &state_dir, log)
                    .map_err(|error| (Kind::Internal, error.to_string()))?;
                self.held.add_shim(pid, pod);
                return Ok(Reply::Spawned { pid });
            }
            Request::Kill { pod } => self.kill(&pod)?,
            Request::Pods => {
                return Ok(Reply::Pods {
                    pods: self.held.pods(),
                });
            }
            Request::Deposit { pod, key, pid } => self.held.deposit(pod, key, pid, descriptors)?,
            Request::Keys { pod } => {
                return Ok(Reply::Keys {
                    keys: self.held.keys(&pod),
                });
            }
            Request::Remove { pod, key } => self.held.remove(&pod, &key),
            Request::Forget { pod } => self.held.forget(&pod),
            Request::TakeExit { pod, key } => {
                // Whoever saw the pidfd become readable asks at once: the signal may not have been read yet.
                self.held.reap();
                return Ok(Reply::Exit {
                    exit: self.held.take_exit(&pod, &key),
                });
            }
            Request::Retire => self.retiring = true,
            Request::Stay => self.retiring = false,
            Request::Copy { .. } => {
                return Err((Kind::Internal, "a copy is answered with its descriptors".into()));
            }
        }
        Ok(Reply::Done)
    }

    /// Ends a shim that does not answer. Its pid is its own until this process has reaped it.
    fn kill(&mut self, pod: &PodSandboxId) -> Result<(), Refusal> {
        self.held.reap();
        let pid = self
            .held
            .shim_of(pod)
            .and_then(Pid::from_raw)
            .ok_or_else(|| (Kind::NotFound, format!("pod {pod} has no shim of this keeper")))?;
        rustix::process::kill_process(pid, Signal::KILL)
            .map_err(|error| (Kind::Internal, format!("kill the shim of pod {pod}: {error}")))
    }

    fn leave(&self) -> ! {
        let _ = std::fs::remove_file(&self.args.socket);
        let _ = std::fs::remove_file(self.args.socket.with_extension("log"));
        cgroup::leave(&self.args.cgroup);
        std::process::exit(0)
    }
}

fn cgroup_problems(cgroup: &str) -> Vec<String> {
    if cgroup.is_empty() {
        Vec::new()
    } else {
        cgroup::join(cgroup)
    }
}

/// Sends an answer; `false` when the other end does not take it.
fn reply(connection: &OwnedFd, reply: &Reply, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> bool {
    serde_json::to_vec(reply)
        .map_err(io::Error::other)
        .and_then(|packet| Ok(seqpacket::send(connection.as_fd(), &packet, descriptors)?))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<KeeperArgs, Error> {
        KeeperArgs::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn arguments_are_read_back() {
        let args = KeeperArgs {
            socket: "/run/x/keeper/a.sock".into(),
            cgroup: "/coracle.slice".into(),
            instance: Instance::default(),
        };
        assert_eq!(
            KeeperArgs::parse(args.to_arguments().into_iter()).expect("parsed"),
            args
        );
    }

    #[test]
    fn wrong_arguments_are_named() {
        for words in [
            &["--socket", "/x"][..],
            &["--nope", "1"],
            &["--socket", "/x", "--cgroup", "/../y", "--instance", "a"],
            &["--socket", "/x", "--cgroup", "/y", "--instance", "A/B"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
