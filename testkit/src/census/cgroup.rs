//! Cgroups of an instance, in every hierarchy that is mounted: v1, v2 or both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Census;
use crate::node::Node;

/// The mount points of all cgroup hierarchies of this machine.
///
/// # Errors
/// When /proc/self/mountinfo cannot be read.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let kind = right.split(' ').next()?;
            // Field 5 is the mount point (proc_pid_mountinfo(5)).
            matches!(kind, "cgroup" | "cgroup2").then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
        .collect())
}

/// The cgroups that a node's daemon makes, in every hierarchy: below its name and below its slice.
///
/// # Errors
/// When the hierarchies cannot be found.
pub fn of_instance(node: &Node) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for name in [node.instance().to_string(), format!("{}.slice", node.instance())] {
            walk(&hierarchy.join(name), &mut found);
        }
    }
    Ok(found)
}

/// Whether a cgroup is the one of this container or pod, whoever made it.
#[must_use]
pub fn is_of(group: &Path, id: &str) -> bool {
    let name = group.file_name().unwrap_or_default().to_string_lossy();
    name == id || name == format!("cri-containerd-{id}.scope")
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    // A cgroup that goes while it is looked at is gone: no error.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    found.push(directory.to_owned());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

pub(super) fn collect(node: &Node, census: &mut Census) -> Result<()> {
    for group in of_instance(node)? {
        census.add("cgroups", group.display().to_string());
    }
    Ok(())
}
