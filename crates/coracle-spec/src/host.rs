//! What the kernel and the daemon's own rights offer to containers, found by probing once at start.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::Capability;

use crate::capabilities;

/// How the node's cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// A hierarchy a controller, with or without a unified one beside them.
    V1,
    /// One unified hierarchy.
    V2,
}

/// Whether AppArmor confines processes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppArmor {
    /// The module is missing or off.
    Absent,
    /// It is on.
    Enabled,
}

/// Whether SELinux labels mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selinux {
    /// The module is missing or off.
    Absent,
    /// It is on, permissive or enforcing.
    Enabled,
}

/// What this node offers. Fields are public so that tests and other front ends can make their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Form of the cgroup hierarchy.
    pub cgroup: CgroupVersion,
    /// Options of the host's cgroup2 mount that a mount without its own cgroup namespace must repeat,
    /// or the shared superblock loses them: `nsdelegate`, `memory_recursiveprot`.
    pub cgroup_mount_options: Vec<String>,
    /// AppArmor.
    pub apparmor: AppArmor,
    /// SELinux.
    pub selinux: Selinux,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// A limit on swap can be set.
    pub swap_limit: bool,
    /// The hugetlb controller is there.
    pub hugetlb: bool,
    /// `mount_setattr` with `AT_RECURSIVE` works (5.12).
    pub recursive_read_only: bool,
    /// Overlay takes id-mapped layers (5.19): user namespaces.
    pub id_mapped_layers: bool,
    /// tmpfs takes id mappings (6.3): the kubelet's tokens and secrets in user namespaces.
    pub id_mapped_tmpfs: bool,
    /// What can be given to a container: the daemon's bounding set.
    pub capabilities: BTreeSet<String>,
    /// The lowest `oom_score_adj` that may be set: -1000 with `CAP_SYS_RESOURCE`, else the daemon's own.
    pub lowest_oom_score_adj: i32,
    /// Major and minor number of the kernel's version.
    pub kernel: (u32, u32),
    /// Host name of the node.
    pub hostname: String,
    /// Where device nodes are.
    pub dev: PathBuf,
}

impl Host {
    /// Looks at the running kernel. Never fails: what cannot be read counts as missing.
    #[must_use]
    pub fn probe() -> Self {
        let uname = rustix::system::uname();
        let kernel = kernel_version(&uname.release().to_string_lossy());
        let status = read("/proc/self/status");
        let bounding = capabilities::from_mask(status_mask(&status, "CapBnd:"));
        let resource = status_mask(&status, "CapEff:") & capabilities::mask_of(Capability::SysResource) != 0;
        let cgroup = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            CgroupVersion::V2
        } else {
            CgroupVersion::V1
        };
        Self {
            cgroup,
            cgroup_mount_options: cgroup_mount_options(&read("/proc/self/mountinfo")),
            apparmor: if read("/sys/module/apparmor/parameters/enabled").starts_with('Y') {
                AppArmor::Enabled
            } else {
                AppArmor::Absent
            },
            selinux: if Path::new("/sys/fs/selinux/enforce").exists() {
                Selinux::Enabled
            } else {
                Selinux::Absent
            },
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            swap_limit: swap_limit(cgroup, &read("/proc/self/cgroup")),
            hugetlb: match cgroup {
                CgroupVersion::V1 => Path::new("/sys/fs/cgroup/hugetlb").is_dir(),
                CgroupVersion::V2 => read("/sys/fs/cgroup/cgroup.controllers")
                    .split_whitespace()
                    .any(|name| name == "hugetlb"),
            },
            recursive_read_only: kernel >= (5, 12),
            id_mapped_layers: kernel >= (5, 19),
            id_mapped_tmpfs: kernel >= (6, 3),
            capabilities: bounding,
            lowest_oom_score_adj: if resource {
                -1000
            } else {
                i32::from_str(read("/proc/self/oom_score_adj").trim()).unwrap_or(-1000)
            },
            kernel,
            hostname: uname.nodename().to_string_lossy().into_owned(),
            dev: PathBuf::from("/dev"),
        }
    }
}

/// Whole text of a kernel file, at most 4 MiB; empty when it cannot be read.
fn read(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _unreadable_counts_as_missing = file.take(4 << 20).read_to_string(&mut text);
    }
    text
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn status_mask(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn cgroup_mount_options(mountinfo: &str) -> Vec<String> {
    let Some(superblock) = mountinfo
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some("/sys/fs/cgroup"))
        .filter_map(|line| line.split_once(" - cgroup2 "))
        .filter_map(|(_, rest)| rest.split(' ').nth(1))
        .next_back()
    else {
        return Vec::new();
    };
    superblock
        .split(',')
        .filter(|option| ["nsdelegate", "memory_recursiveprot"].contains(option))
        .map(ToOwned::to_owned)
        .collect()
}

/// v1 has the file in the root of the memory hierarchy; v2 has it in every cgroup but the root.
fn swap_limit(version: CgroupVersion, own_cgroups: &str) -> bool {
    match version {
        CgroupVersion::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        CgroupVersion::V2 => {
            let own = own_cgroups
                .lines()
                .find_map(|line| line.strip_prefix("0::/"))
                .unwrap_or("");
            let mut directories = vec![Path::new("/sys/fs/cgroup").join(own)];
            if let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") {
                directories.extend(entries.flatten().take(256).map(|entry| entry.path()));
            }
            directories
                .iter()
                .any(|directory| directory.join("memory.swap.max").exists())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_read() {
        assert_eq!(kernel_version("6.18.5"), (6, 18));
        assert_eq!(kernel_version("5.14.0-427.el9.x86_64"), (5, 14));
        assert_eq!(kernel_version("6.8-rc1"), (6, 8));
        assert_eq!(kernel_version("odd"), (0, 0));
    }

    #[test]
    fn options_of_the_unified_mount_are_found() {
        let line =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(cgroup_mount_options(line), ["nsdelegate", "memory_recursiveprot"]);
        assert!(cgroup_mount_options("30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n").is_empty());
    }

    #[test]
    fn probing_finds_the_kernel() {
        assert!(Host::probe().kernel >= (5, 14));
    }
}
