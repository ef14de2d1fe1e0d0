//! A node: private mount, network, PID, IPC and UTS namespaces in which a daemon runs as if alone.
//!
//! Inside, the usual paths are the node's own: /run is an empty tmpfs, /etc and /var/lib are layers
//! over the host's, /etc/cni/net.d is empty, /sys shows the node's interfaces, `lo` is up. Cgroups are
//! the host's, below the instance's name. Two processes hold a node: its first process, inside, which
//! reaps; and a guard, outside, which takes everything away when the owner is gone, also by kill -9.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use coracle_types::Instance;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub mod daemon;
pub mod process;
pub mod service;

pub use daemon::{Daemon, DaemonOptions};
pub use process::{Process, Role};
pub use service::Service;

const INIT: &str = include_str!("node/init.sh");
const GUARD: &str = include_str!("node/guard.sh");

/// Chooses who makes the cgroups of nodes' pods: `systemd`, which must be the machine's; else the daemon itself.
pub const DRIVER_VARIABLE: &str = "CORACLE_CGROUP_DRIVER";

/// Whether nodes of this process have systemd make their cgroups. They then share the machine's PID namespace, since
/// systemd is told of processes by their numbers in its own.
#[must_use]
pub fn by_systemd() -> bool {
    std::env::var(DRIVER_VARIABLE).is_ok_and(|driver| driver == "systemd")
}

/// Distinguishes the nodes of one process.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running node; clones are handles to the same one, and the last to go takes it away.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    instance: Instance,
    directory: PathBuf,
    init: u32,
    guard: Child,
    /// Held open for the guard and the node's first process, which both leave when it closes.
    lifeline: Option<ChildStdin>,
}

impl Node {
    /// Starts a node of its own name; takes some 50 ms.
    ///
    /// # Errors
    /// When this is not root, or the kernel or the host lacks what the named step needs.
    pub fn start() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a node needs root: it makes namespaces, mounts and cgroups"
        );
        // No dash: in the name of a slice it would stand for a slice above.
        let name = format!(
            "n{}x{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        );
        let instance: Instance = name.parse()?;
        let directory = std::env::temp_dir().join("coracle-nodes").join(&name);
        std::fs::create_dir_all(directory.join("lib"))
            .with_context(|| format!("cannot make the node's directory {}", directory.display()))?;
        std::fs::write(directory.join("init.sh"), INIT)?;
        std::fs::write(directory.join("guard.sh"), GUARD)?;

        let mut guard = Command::new("bash")
            .arg(directory.join("guard.sh"))
            .arg(&name)
            .arg(&directory)
            .arg(if by_systemd() { "host" } else { "own" })
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run bash, which guards a node")?;
        let lifeline = guard.stdin.take();
        let stdout = guard.stdout.take().context("the guard has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut inner = Inner {
            instance,
            directory,
            init: 0,
            guard,
            lifeline,
        };
        match line.trim().split_once(' ') {
            Some(("ready", pid)) => inner.init = pid.parse()?,
            // Dropping `inner` takes away what was made so far.
            Some(("failed:", step)) => bail!("the node could not {step} (its complaint is above)"),
            _ => bail!("the node ended before it was ready (its complaint is above)"),
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The name under which this node's daemon makes global things.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.0.instance
    }

    /// The node's directory, the same path inside and outside.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The daemon's root directory (images, layers, records), the same path inside and outside.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.0.directory.join("lib")
    }

    /// The daemon's state directory, as it is called inside.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        PathBuf::from("/run/coracle")
    }

    /// The daemon's socket, as it is called inside.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state().join("coracle.sock")
    }

    /// A cgroup of the instance to give pods as their parent, as the kubelet gives one.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        let instance = &self.0.instance;
        if by_systemd() {
            format!("/{instance}.slice/{instance}-kubepods.slice")
        } else {
            format!("/{instance}/kubepods")
        }
    }

    /// The pid of the node's first process, as the host counts.
    #[must_use]
    pub fn init(&self) -> u32 {
        self.0.init
    }

    /// Where the host finds what is called `inside` in the node.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let below = inside.strip_prefix("/").unwrap_or(inside);
        PathBuf::from(format!("/proc/{}/root", self.0.init)).join(below)
    }

    /// Writes a file inside the node, with its directories.
    ///
    /// # Errors
    /// When a directory or the file cannot be made.
    pub fn write(&self, inside: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {} in the node", parent.display()))?;
        }
        std::fs::write(&path, content).with_context(|| format!("cannot write {} in the node", path.display()))
    }

    /// A command that will run inside, told by its environment where it is.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_at(Path::new("/"), program)
    }

    /// As [`Node::command`], in a working directory of its choice (looked up inside).
    #[must_use]
    pub fn command_at(&self, directory: &Path, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.0.init))
            .args(["--mount", "--net", "--pid", "--ipc", "--uts"])
            .arg(format!("--wdns={}", directory.display()))
            .arg("--")
            .arg(program)
            .envs(self.environment());
        command
    }

    /// What a command inside learns from its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let socket = self.socket().display().to_string();
        vec![
            ("CORACLE_INSTANCE", self.0.instance.to_string()),
            ("CORACLE_ROOT", self.root().display().to_string()),
            ("CORACLE_STATE", self.state().display().to_string()),
            ("CORACLE_CGROUP_PARENT", self.cgroup_parent()),
            ("CORACLE_CNI_CONF_DIR", "/etc/cni/net.d".to_owned()),
            (
                "CORACLE_REGISTRY_CONFIG_DIR",
                "/etc/containerd/certs.d".to_owned(),
            ),
            // What crictl and critest read.
            ("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{socket}")),
            ("IMAGE_SERVICE_ENDPOINT", format!("unix://{socket}")),
            ("CORACLE_SOCKET", socket),
        ]
    }

    /// Runs a command inside to its end and gives what it wrote.
    ///
    /// # Errors
    /// When it cannot be run or does not exit with 0; the error holds what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(program, arguments)?;
        ensure!(
            output.status.success(),
            "{program} {} in the node: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command inside to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run nsenter for {program}"))
    }

    /// Opens a listening socket inside the node's network from this process; port 0 chooses one.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        self.in_network(move || Ok(TcpListener::bind(("127.0.0.1", port))?))
    }

    /// Connects to an address of the node's network from this process.
    ///
    /// # Errors
    /// When the namespace cannot be entered or nothing listens there.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        self.in_network(move || {
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address} in the node"))
        })
    }

    /// Runs `make` on a thread that has entered the node's network; sockets stay where they were made.
    fn in_network<T: Send + 'static>(&self, make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.0.init);
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the node's network namespace")?;
            make()
        });
        thread
            .join()
            .unwrap_or_else(|_| bail!("the thread in the node's network panicked"))
    }

    /// Starts `coracle serve` inside and waits until its socket answers.
    ///
    /// # Errors
    /// When the program is missing, or leaves, or does not listen in time; with the end of its log.
    pub fn daemon(&self) -> Result<Daemon> {
        self.daemon_with(DaemonOptions::default())
    }

    /// As [`Node::daemon`], with options.
    ///
    /// # Errors
    /// As [`Node::daemon`].
    pub fn daemon_with(&self, options: DaemonOptions) -> Result<Daemon> {
        Daemon::start(self.clone(), options)
    }

    /// Every process of the node but its first and commands that are just being run in it.
    ///
    /// # Errors
    /// When the node's /proc cannot be read.
    pub fn processes(&self) -> Result<Vec<Process>> {
        process::of_node(self)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the pipe ends the node's first process; the guard ends when all is taken away.
        drop(self.lifeline.take());
        let ended = self.guard.wait();
        if self.directory.exists() {
            let _ = writeln!(
                std::io::stderr(),
                "node {}: left behind {} (guard: {ended:?})",
                self.instance,
                self.directory.display()
            );
        }
    }
}

#[cfg(test)]
mod tests;
