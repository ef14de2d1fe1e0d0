//! The daemon of a node: `coracle serve`, started, killed and started again.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Node;
use super::process::{Process, Role};
use super::service::Service;
use crate::wait;

/// Names the program under test; `make test` sets it to the release build.
pub const PROGRAM_VARIABLE: &str = "CORACLE_PROGRAM";

/// Long enough for a slow machine.
const END: Duration = Duration::from_secs(30);

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Another program than the one under test: a copy of it that a test may lose.
    pub program: Option<PathBuf>,
    /// Where CNI plugins lie; the daemon needs them only for networks that it does not make itself.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Further arguments of `coracle serve`.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            program: None,
            cni_bin_dirs: crate::cni::plugin_directories(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// A running daemon; killed when dropped, while its pods go with the node.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    options: DaemonOptions,
    service: Option<Service>,
}

impl Daemon {
    pub(super) fn start(node: Node, options: DaemonOptions) -> Result<Self> {
        let mut daemon = Self {
            node,
            options,
            service: None,
        };
        daemon.service = Some(daemon.launch()?);
        Ok(daemon)
    }

    fn launch(&self) -> Result<Service> {
        let node = &self.node;
        let program = match &self.options.program {
            Some(program) => program.clone(),
            None => program()?,
        };
        let mut command = node.command(program);
        command.arg("serve");
        command.arg("--root").arg(node.root());
        command.arg("--state").arg(node.state());
        command.arg("--socket").arg(node.socket());
        command.args(["--instance", node.instance().as_str()]);
        if super::by_systemd() {
            command.args(["--cgroup-driver", "systemd"]);
        }
        command.args(["--cni-conf-dir", "/etc/cni/net.d"]);
        for directory in &self.options.cni_bin_dirs {
            command.arg("--cni-bin-dir").arg(directory);
        }
        command.args(&self.options.arguments);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        let socket = node.path(node.socket());
        Service::start(node, "daemon", command, || UnixStream::connect(&socket).is_ok())
    }

    /// The node it runs in.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where the host finds its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.node.path(self.node.socket())
    }

    /// The running program.
    ///
    /// # Errors
    /// When it was ended and not started again.
    pub fn service(&mut self) -> Result<&mut Service> {
        self.service.as_mut().context("the daemon is not running")
    }

    /// Its directory in the host's /proc.
    ///
    /// # Errors
    /// When it was ended and not started again.
    pub fn proc(&self) -> Result<PathBuf> {
        Ok(self.service.as_ref().context("the daemon is not running")?.proc())
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill9(&mut self) -> Result<()> {
        self.service()?.kill9()?;
        self.service = None;
        Ok(())
    }

    /// Waits until it has died by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn died(&mut self) -> Result<()> {
        let service = self.service()?;
        wait::until("the daemon to die", END, || {
            Ok((!service.is_running()?).then_some(()))
        })?;
        self.service = None;
        Ok(())
    }

    /// Ends it with SIGTERM; fails when it does not leave with 0.
    ///
    /// # Errors
    /// When it is not running, does not leave in time or not with 0.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.service()?.terminate()?;
        self.service = None;
        if !status.success() {
            bail!("the daemon left with {status} after SIGTERM:\n{}", self.log_end());
        }
        Ok(())
    }

    /// Starts it again after an end, in the same directories.
    ///
    /// # Errors
    /// When it is running already or does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        if self.service.is_some() {
            bail!("the daemon is running already");
        }
        self.service = Some(self.launch()?);
        Ok(())
    }

    /// What it is started with from the next start on.
    pub fn options(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// The end of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let log = self.node.directory().join("daemon.log");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The processes of one role in its node.
    ///
    /// # Errors
    /// When the node's /proc cannot be read.
    pub fn processes(&self, role: Role) -> Result<Vec<Process>> {
        let mut processes = self.node.processes()?;
        processes.retain(|process| process.role == role);
        Ok(processes)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("the end of the daemon's log:\n{}\n", self.log_end()),
            );
        }
    }
}

/// The program under test: what [`PROGRAM_VARIABLE`] names, else the release build of this workspace.
///
/// # Errors
/// When there is no such file; a test without the program fails, it is not skipped.
pub fn program() -> Result<PathBuf> {
    let path = match std::env::var_os(PROGRAM_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("target/x86_64-unknown-linux-gnu/release/coracle"),
    };
    std::fs::canonicalize(&path).with_context(|| {
        format!(
            "the program under test is not at {} (`make build` builds it; {PROGRAM_VARIABLE} names another)",
            path.display()
        )
    })
}
