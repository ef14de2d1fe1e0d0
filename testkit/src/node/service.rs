//! A program that runs in a node's background, with its log in the node's directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::{Node, process};
use crate::wait;

/// Long enough for a slow machine; only reached when something is wrong.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Service {
    name: String,
    entrance: Child,
    host_pid: u32,
    log: PathBuf,
}

impl Service {
    /// Runs `command` (made by [`Node::command`]) and waits until `ready` says so; its output is
    /// appended to `<name>.log` in the node's directory.
    ///
    /// # Errors
    /// When it cannot be run, leaves, or is not ready in time; with the end of its log.
    pub fn start(
        node: &Node,
        name: &str,
        mut command: Command,
        mut ready: impl FnMut() -> bool,
    ) -> Result<Self> {
        let log = node.directory().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let entrance = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot run nsenter (package util-linux)")?;
        let mut service = Self {
            name: name.to_owned(),
            entrance,
            host_pid: 0,
            log,
        };
        let started = wait::until(&format!("{name} to be ready"), START, || {
            if let Some(status) = service.entrance.try_wait()? {
                bail!("{name} left at once: {status}");
            }
            if service.host_pid == 0 {
                service.host_pid = child_of(service.entrance.id()).unwrap_or(0);
            }
            Ok((service.host_pid != 0 && ready()).then_some(()))
        });
        started.with_context(|| format!("the end of {name}'s log:\n{}", service.log_end()))?;
        Ok(service)
    }

    /// Its pid as the host counts.
    #[must_use]
    pub fn host_pid(&self) -> u32 {
        self.host_pid
    }

    /// Its directory in the host's /proc.
    #[must_use]
    pub fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.host_pid))
    }

    /// Where its output is kept.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last 40 lines of its output.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.entrance.try_wait()?.is_none())
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.end_with(Signal::KILL)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end_with(Signal::TERM)
    }

    fn end_with(&mut self, signal: Signal) -> Result<ExitStatus> {
        process::signal(&self.proc(), signal)?;
        let name = self.name.clone();
        wait::until(&format!("{name} to end"), STOP, || {
            Ok(self.entrance.try_wait()?)
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.entrance.try_wait(), Ok(None)) {
            if self.host_pid != 0 {
                let _ = process::signal(&self.proc(), Signal::KILL);
            } else {
                let _ = self.entrance.kill();
            }
            let _ = self.entrance.wait();
        }
    }
}

/// nsenter forks once, to get into the PID namespace; its only child is the program.
fn child_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
