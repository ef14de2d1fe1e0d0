//! The processes of a node and the roles that the daemon's program plays in them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Node;

/// What a process of the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `coracle serve`.
    Daemon,
    /// `coracle keeper`.
    Keeper,
    /// `coracle shim`.
    Shim,
    /// Anything else: what runs in containers, registries, a test's own commands.
    Other,
}

/// One process of a node.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its pid inside the node.
    pub pid: u32,
    /// Its parent's pid inside the node; 0 when the parent is outside.
    pub parent: u32,
    /// The single letter of its state: R, S, D, Z ...
    pub state: char,
    /// The kernel's short name of it.
    pub name: String,
    /// Its command line.
    pub command: Vec<String>,
    /// What it is, read from its command line.
    pub role: Role,
    /// Its directory in the node's /proc, as the host finds it.
    pub directory: PathBuf,
}

impl Process {
    /// Its command line in one piece; its short name where there is none.
    #[must_use]
    pub fn title(&self) -> String {
        if self.command.is_empty() {
            format!("[{}]", self.name)
        } else {
            self.command.join(" ")
        }
    }

    /// Stops it by SIGSTOP: it lives and does nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn suspend(&self) -> Result<()> {
        signal(&self.directory, Signal::STOP)
    }

    /// Sends SIGKILL; a process that is gone already is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        signal(&self.directory, Signal::KILL)
    }
}

/// Sends a signal to the process whose /proc directory this is: pidfd_send_signal(2) takes the
/// directory's descriptor, so the pid needs no translation between namespaces and cannot be reused.
pub(super) fn signal(directory: &Path, signal: Signal) -> Result<()> {
    let Ok(process) = File::open(directory) else {
        return Ok(());
    };
    match rustix::process::pidfd_send_signal(process.as_fd(), signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal {}", directory.display())),
    }
}

/// Reads the node's own /proc, which shows also the processes of PID namespaces below it.
pub(super) fn of_node(node: &Node) -> Result<Vec<Process>> {
    let proc = node.path("/proc");
    let entries =
        std::fs::read_dir(&proc).with_context(|| format!("cannot read the node's {}", proc.display()))?;
    let shared = super::by_systemd();
    let first = if shared { node.init() } else { 1 };
    // In a shared PID namespace it is seen who made the node: with it the node would go.
    let holder = read(first, proc.join(first.to_string()))
        .map(|first| first.parent)
        .filter(|_| shared);
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // The first process is the node itself. One that leaves while it is looked at is no more.
        if pid != first
            && Some(pid) != holder
            && (!shared || is_of(node, &proc.join(&name)))
            && let Some(process) = read(pid, proc.join(name))
        {
            found.push(process);
        }
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// Whether a process of a shared PID namespace is the node's: it has the node's mounts, or lives in its cgroups.
fn is_of(node: &Node, directory: &Path) -> bool {
    let mounts = |directory: &Path| std::fs::read_link(directory.join("ns/mnt")).ok();
    let own = mounts(directory);
    let cgroups = std::fs::read_to_string(directory.join("cgroup")).unwrap_or_default();
    own.is_some() && own == mounts(&PathBuf::from(format!("/proc/{}", node.init())))
        || cgroups.contains(&format!("/{}.slice/", node.instance()))
}

fn read(pid: u32, directory: PathBuf) -> Option<Process> {
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let command: Vec<String> = std::fs::read(directory.join("cmdline"))
        .ok()?
        .split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .filter(|part| !part.is_empty())
        .collect();
    Some(Process {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        state: field("State:")?.chars().next()?,
        name: field("Name:")?.to_owned(),
        role: role(&command),
        command,
        directory,
    })
}

/// The program's role is its first argument, or part of a title that it gives itself: `coracle-shim 0123`.
fn role(command: &[String]) -> Role {
    let mut words = command.iter().flat_map(|part| part.split_whitespace());
    let program = words.next().unwrap_or_default();
    let file = program.rsplit('/').next().unwrap_or_default();
    let role = match file.strip_prefix("coracle") {
        Some("") => words.find(|word| !word.starts_with('-')),
        Some(title) => title.strip_prefix('-'),
        None => None,
    };
    match role {
        Some("serve") => Role::Daemon,
        Some("keeper") => Role::Keeper,
        Some("shim") => Role::Shim,
        _ => Role::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_from_arguments_or_a_title() {
        let words = |line: &[&str]| line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            role(&words(&["/x/coracle", "serve", "--root", "/r"])),
            Role::Daemon
        );
        assert_eq!(role(&words(&["coracle", "keeper"])), Role::Keeper);
        assert_eq!(role(&words(&["coracle-shim 0123    "])), Role::Shim);
        assert_eq!(role(&words(&["coracle-keeper n1"])), Role::Keeper);
        assert_eq!(role(&words(&["sleep", "shim"])), Role::Other);
        assert_eq!(role(&[]), Role::Other);
    }
}
