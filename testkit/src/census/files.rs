//! Mounts but those of layers, and the files that the daemon keeps on tmpfs and beside its writable layers.

use std::path::Path;

use anyhow::{Context, Result};

use super::Census;
use crate::node::{Node, by_systemd};

/// What a node shares with the machine, and so with all its other nodes.
const SHARED: [&str; 2] = ["/run/systemd", "/run/dbus"];

pub(super) fn collect(node: &Node, census: &mut Census) -> Result<()> {
    mounts(node, census)?;
    // /run is the node's own tmpfs: sockets, pins, locks and ledgers lie nowhere else.
    walk(&node.path("/run"), Path::new("/run"), "state files", census);
    if by_systemd() {
        units(node, census);
    }
    // Its root may be a mount of its own.
    let writable = node.path(node.root().join("writable"));
    walk(&writable, Path::new("writable"), "writable layers", census);
    // Reserved addresses (the CNI host-local plugin's place) outlive a reboot, so a leak here is for good.
    let addresses = node.path("/var/lib/cni/networks");
    walk(
        &addresses,
        Path::new("/var/lib/cni/networks"),
        "reserved addresses",
        census,
    );
    Ok(())
}

fn mounts(node: &Node, census: &mut Census) -> Result<()> {
    let path = format!("/proc/{}/mountinfo", node.init());
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    for line in text.lines() {
        let (Some(target), Some(kind)) = (
            line.split(' ').nth(4),
            line.split_once(" - ")
                .and_then(|(_, rest)| rest.split(' ').next()),
        ) else {
            continue;
        };
        // A layer's mount lives as long as the layer, and images that a test pulled are no leak.
        if !(kind == "erofs" && target.contains("/layers/")) {
            census.add("mounts", format!("{target} {kind}"));
        }
    }
    Ok(())
}

/// Units that systemd keeps for the node's daemon: named by the instance, or in a slice of it.
fn units(node: &Node, census: &mut Census) {
    let of_instance = |text: &str| {
        let rest = text.strip_prefix(node.instance().as_str());
        rest.is_some_and(|rest| rest.starts_with(['-', '.']))
    };
    let entries = std::fs::read_dir(node.path(SHARED[0]).join("transient"));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // One that goes while it is looked at is gone.
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let mut slices = text.lines().filter_map(|line| line.strip_prefix("Slice="));
        if of_instance(&name) || slices.any(of_instance) {
            census.add("units", name);
        }
    }
}

/// Every path below, without following links; two levels are enough of a writable layer.
fn walk(directory: &Path, shown: &Path, section: &'static str, census: &mut Census) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let shown = shown.join(&name);
        if SHARED.iter().any(|shared| shown == Path::new(shared)) {
            continue;
        }
        // host-local remembers the last address it gave; a pod's going does not change that back.
        // Compiled seccomp profiles are the node's own, one a profile, shared by all its shims.
        let remembered = name.to_string_lossy().starts_with("last_reserved_ip")
            || shown.components().any(|part| part.as_os_str() == "seccomp");
        if !remembered {
            census.add(section, shown.display().to_string());
        }
        let deep = section == "writable layers" && shown.components().count() > 2;
        if !deep && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), &shown, section, census);
        }
    }
}
