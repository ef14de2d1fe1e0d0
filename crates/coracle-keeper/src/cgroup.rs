//! Joining the slice of keeper and shims in every cgroup hierarchy, and leaving it.

use std::io;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
struct Hierarchy {
    mountpoint: PathBuf,
    unified: bool,
    cpuset: bool,
}

/// Moves the calling process, which has one thread, into `cgroup` of every hierarchy. What fails is returned
/// in words: a keeper outside its slice is worse accounted for, not broken.
pub(crate) fn join(cgroup: &str) -> Vec<String> {
    let relative = cgroup.trim_matches('/');
    each(|hierarchy| {
        let mut directory = hierarchy.mountpoint.clone();
        for part in relative.split('/').filter(|part| !part.is_empty()) {
            let parent = directory.clone();
            directory.push(part);
            match std::fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if hierarchy.cpuset {
                inherit_cpuset(&parent, &directory)?;
            }
        }
        enter(hierarchy, &directory)
    })
}

/// Moves the calling process to the root of every hierarchy and removes `cgroup` where it is empty.
pub(crate) fn leave(cgroup: &str) {
    let relative = cgroup.trim_matches('/');
    if relative.is_empty() {
        return;
    }
    each(|hierarchy| {
        enter(hierarchy, &hierarchy.mountpoint)?;
        std::fs::remove_dir(hierarchy.mountpoint.join(relative))
    });
}

fn each(action: impl Fn(&Hierarchy) -> io::Result<()>) -> Vec<String> {
    let mounts = match std::fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounts) => mounts,
        Err(error) => return vec![format!("/proc/self/mountinfo: {error}")],
    };
    hierarchies(&mounts)
        .iter()
        .filter_map(|hierarchy| {
            action(hierarchy)
                .err()
                .map(|error| format!("{}: {error}", hierarchy.mountpoint.display()))
        })
        .collect()
}

/// `0` into `tasks` moves the writing thread alone and does not wait for an RCU grace period, as
/// `cgroup.procs` on cgroup v1 does.
fn enter(hierarchy: &Hierarchy, directory: &Path) -> io::Result<()> {
    std::fs::write(
        directory.join(if hierarchy.unified {
            "cgroup.procs"
        } else {
            "tasks"
        }),
        "0",
    )
}

/// A new cpuset of cgroup v1 is empty and takes no process.
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if std::fs::read_to_string(child.join(file))?.trim().is_empty() {
            std::fs::write(child.join(file), std::fs::read_to_string(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Cgroup mounts of a mountinfo file (proc_pid_mountinfo(5)), each hierarchy once.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(String, Hierarchy)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(mountpoint), Some(device)) = (mount.split(' ').nth(4), mount.split(' ').nth(2)) else {
            continue;
        };
        let mut fields = filesystem.split(' ');
        let kind = fields.next().unwrap_or_default();
        let options = fields.nth(1).unwrap_or_default();
        if !matches!(kind, "cgroup" | "cgroup2") || found.iter().any(|(known, _)| known == device) {
            continue;
        }
        let hierarchy = Hierarchy {
            mountpoint: unescaped(mountpoint),
            unified: kind == "cgroup2",
            cpuset: kind == "cgroup" && options.split(',').any(|option| option == "cpuset"),
        };
        found.push((device.to_owned(), hierarchy));
    }
    found.into_iter().map(|(_, hierarchy)| hierarchy).collect()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescaped(path: &str) -> PathBuf {
    let plain = path
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_a_hybrid_machine_are_found_once() {
        let text = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
33 30 0:29 / /sys/fs/cgroup/my\\040cpu rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:28 / /elsewhere rw - cgroup cgroup rw,cpuset
";
        let found = hierarchies(text);
        assert_eq!(found.len(), 3);
        assert!(found[0].unified && !found[0].cpuset);
        assert!(found[1].cpuset && !found[1].unified);
        assert_eq!(found[2].mountpoint, Path::new("/sys/fs/cgroup/my cpu"));
    }
}
