//! Who may use the socket besides root: a group, given by the configuration.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::Context as _;

use crate::config::Config;

/// Users and groups of the node. The static C library must not be asked: it would load the build's own modules.
const GROUPS: &str = "/etc/group";
/// The group may pass through the directory and see nothing in it.
const PASSAGE: u32 = 0o710;

/// Gives the bound socket to its group, and lets the group reach it where it lies in the state directory,
/// which is root's alone otherwise; all directories below stay so.
///
/// # Errors
/// When there is no such group, or the file system refuses.
pub(crate) fn give(config: &Config) -> anyhow::Result<()> {
    let name = &config.socket_group.0;
    if name.is_empty() {
        return Ok(());
    }
    let groups = std::fs::read_to_string(GROUPS).with_context(|| format!("read {GROUPS}"))?;
    let group = find(&groups, name).with_context(|| {
        format!("socket_group: there is no group {name:?} in {GROUPS}: make it with `groupadd --system {name}`, or set socket_group = \"\"")
    })?;
    own(&config.socket, group)?;
    if config.socket.parent() == Some(config.state.as_path()) {
        own(&config.state, group)?;
        std::fs::set_permissions(&config.state, std::fs::Permissions::from_mode(PASSAGE))
            .with_context(|| format!("let group {name} pass through {}", config.state.display()))?;
    }
    Ok(())
}

fn own(path: &Path, group: u32) -> anyhow::Result<()> {
    chown(path, None, Some(group)).with_context(|| format!("give {} to group {group}", path.display()))
}

/// By name first, as a name may be digits (group(5)).
fn find(groups: &str, name: &str) -> Option<u32> {
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    });
    named.or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_name_and_by_number() {
        let groups = "root:x:0:\ncoracle:x:990:kim,lee\n42:x:7:\nbroken\n";
        assert_eq!(find(groups, "coracle"), Some(990));
        assert_eq!(find(groups, "1234"), Some(1234));
        assert_eq!(find(groups, "42"), Some(7));
        assert_eq!(find(groups, "nobody"), None);
        assert_eq!(find(groups, "broken"), None);
    }
}
