//! Processes of a node, and what daemon, keeper and shims hold open.

use anyhow::Result;

use super::Census;
use crate::node::{Node, Process, Role};

pub(super) fn collect(node: &Node, census: &mut Census) -> Result<()> {
    for process in node.processes()? {
        let state = if process.state == 'Z' { " (zombie)" } else { "" };
        census.add("processes", format!("{}{state}", process.title()));
        if process.role != Role::Other {
            descriptors(&process, census);
        }
    }
    Ok(())
}

fn descriptors(process: &Process, census: &mut Census) {
    // A process that leaves while it is looked at holds nothing.
    let Ok(entries) = std::fs::read_dir(process.directory.join("fd")) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(target) = std::fs::read_link(entry.path()) {
            let role = process.role;
            census.add(
                "descriptors",
                format!("{role:?}: {}", kind(&target.to_string_lossy())),
            );
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
