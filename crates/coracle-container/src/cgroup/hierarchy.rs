//! Which cgroup hierarchies this mount namespace has, read once from mountinfo.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::Error;

/// What a hierarchy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    /// Version 1 with its controllers, or with a name and none.
    V1(Vec<String>),
    /// Version 2 with the controllers that the root offers.
    V2(Vec<String>),
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) version: Version,
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        matches!(self.version, Version::V2(_))
    }

    pub(super) fn controls(&self, controller: &str) -> bool {
        let (Version::V1(controllers) | Version::V2(controllers)) = &self.version;
        controllers.iter().any(|have| have == controller)
    }
}

/// The node's hierarchies, as they were when first asked for.
pub(super) fn of_node() -> Result<&'static [Hierarchy], Error> {
    static HIERARCHIES: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    if let Some(found) = HIERARCHIES.get() {
        return Ok(found);
    }
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(|source| Error::Cgroup {
        operation: "read".into(),
        path: path.into(),
        source,
    })?;
    let found = parse(&text);
    if found.is_empty() {
        return Err(Error::Cgroup {
            operation: "no hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup".into(),
            path: "/sys/fs/cgroup".into(),
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    Ok(HIERARCHIES.get_or_init(|| found))
}

/// proc_pid_mountinfo(5): `id parent dev root mountpoint options optional... - type source superoptions`.
fn parse(mountinfo: &[u8]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let Some(split) = line.windows(3).position(|window| window == b" - ") else {
            continue;
        };
        let mut before = line[..split].split(|byte| *byte == b' ');
        let mut after = line[split + 3..].split(|byte| *byte == b' ');
        let (Some(mount), Some(kind)) = (before.nth(4), after.next()) else {
            continue;
        };
        let options = after
            .nth(1)
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default();
        let mount = unescape(mount);
        let version = match kind {
            b"cgroup2" if !found.iter().any(Hierarchy::is_v2) => Version::V2(root_controllers(&mount)),
            b"cgroup" => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| !OPTIONS.contains(option))
                    .map(str::to_owned)
                    .collect();
                if controllers.is_empty() || found.iter().any(|have| have.controls(&controllers[0])) {
                    continue;
                }
                Version::V1(controllers)
            }
            _ => continue,
        };
        found.push(Hierarchy { mount, version });
    }
    found
}

/// Superblock options of version 1 that are no controllers.
const OPTIONS: [&str; 8] = [
    "rw",
    "ro",
    "xattr",
    "clone_children",
    "noprefix",
    "cpuset_v2_mode",
    "all",
    "none",
];

fn root_controllers(mount: &Path) -> Vec<String> {
    std::fs::read_to_string(mount.join("cgroup.controllers"))
        .map(|text| text.split_ascii_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let ([a, b, c, after @ ..], b'\\') = (tail, *first)
            && [a, b, c].iter().all(|digit| (b'0'..=b'7').contains(*digit))
        {
            bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_told_apart() {
        let text = b"34 31 0:31 / /sys/fs/cgroup/cpu\\054x rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw shared:3 - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /nonexistent rw - cgroup2 cgroup2 rw\n\
            42 31 0:31 / /again rw - cgroup cgroup rw,cpu,cpuacct\n\
            1 2 0:3 / / rw - ext4 /dev/vda rw\n";
        let found = parse(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].mount, Path::new("/sys/fs/cgroup/cpu,x"));
        assert!(found[0].controls("cpuacct") && !found[0].controls("memory"));
        assert_eq!(found[1].version, Version::V1(vec!["name=systemd".into()]));
        assert!(found[2].is_v2());
    }
}
