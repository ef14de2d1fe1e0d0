//! Processes of a node, and what daemon, keeper and shims hold open.

use std::collections::HashSet;

use anyhow::Result;

use super::Census;
use crate::node::{Node, Process, Role};

/// Connections to registries that may stay open for the next pull; they close after a while unused.
const IDLE_CONNECTIONS: usize = 8;

pub(super) fn collect(node: &Node, census: &mut Census) -> Result<()> {
    let connections = connections(node);
    for process in node.processes()? {
        let state = if process.state == 'Z' { " (zombie)" } else { "" };
        census.add("processes", format!("{}{state}", process.title()));
        if process.role != Role::Other {
            descriptors(&process, &connections, census);
        }
    }
    Ok(())
}

/// The descriptors' targets of all TCP connections in the node's network; listening sockets are none.
fn connections(node: &Node) -> HashSet<String> {
    const LISTENS: &str = "0A";
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", node.init()));
    let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    texts
        .iter()
        .flat_map(|text| text.lines().skip(1))
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let connected = fields.nth(3)? != LISTENS;
            // sl local remote state queues timer retransmits uid timeout inode (proc_pid_net(5))
            fields
                .nth(5)
                .filter(|_| connected)
                .map(|inode| format!("socket:[{inode}]"))
        })
        .collect()
}

fn descriptors(process: &Process, connections: &HashSet<String>, census: &mut Census) {
    // A process that leaves while it is looked at holds nothing.
    let Ok(entries) = std::fs::read_dir(process.directory.join("fd")) else {
        return;
    };
    let mut connected = 0;
    for entry in entries.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let (role, target) = (process.role, target.to_string_lossy());
        if connections.contains(target.as_ref()) {
            connected += 1;
        }
        if !connections.contains(target.as_ref()) || connected > IDLE_CONNECTIONS {
            census.add("descriptors", format!("{role:?}: {}", kind(&target)));
        }
    }
}

/// Numbers that the kernel counts up are left out, so that two looks agree.
fn kind(target: &str) -> String {
    for numbered in [
        "socket", "pipe", "mnt", "net", "pid", "ipc", "uts", "user", "cgroup",
    ] {
        if let Some(rest) = target.strip_prefix(numbered)
            && rest.starts_with(":[")
        {
            return numbered.to_owned();
        }
    }
    target.to_owned()
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn numbers_of_anonymous_objects_are_left_out() {
        assert_eq!(kind("socket:[123]"), "socket");
        assert_eq!(kind("anon_inode:[eventpoll]"), "anon_inode:[eventpoll]");
        assert_eq!(kind("/var/lib/x (deleted)"), "/var/lib/x (deleted)");
    }
}
