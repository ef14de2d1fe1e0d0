//! What only metrics ask for: io by device, huge pages, processes with their descriptors.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{read, read_number};
use super::{Cgroup, hierarchy};

/// Cgroups below one that are looked into for processes (execs, a systemd inside).
const MOST_CGROUPS: usize = 256;
/// Processes that are looked at.
const MOST_PROCESSES: usize = 4096;
/// Descriptors that are asked what they are; more would cost a list tens of milliseconds.
const MOST_DESCRIPTORS: usize = 16_384;

/// What a cgroup read from and wrote to a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Operations.
    pub reads: u64,
    /// Operations.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// As the kernel spells it: `2MB`, `1GB`.
    pub size: String,
    /// Bytes.
    pub usage: u64,
    /// Bytes; the most there ever were. 0 on v2, which does not count it.
    pub max_usage: u64,
}

/// Processes of a cgroup and of those below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    /// Without threads.
    pub count: u64,
    /// Open descriptors and how many of them are sockets; `None` when there are too many to ask each.
    pub descriptors: Option<(u64, u64)>,
    /// Soft limit of open files of the first process; `None` without a limit or a process.
    pub open_files_limit: Option<u64>,
}

impl Cgroup {
    /// By device; nothing where no controller counts it.
    #[must_use]
    pub fn device_io(&self) -> Vec<DeviceIo> {
        if let Some((directory, v2)) = self.controlled_by("io").or_else(|| self.controlled_by("blkio")) {
            if v2 {
                return io_v2(&read(&directory, "io.stat").unwrap_or_default());
            }
            let file = |name: &str| read(&directory, name).unwrap_or_default();
            return io_v1(
                &file("blkio.throttle.io_service_bytes_recursive"),
                &file("blkio.throttle.io_serviced_recursive"),
            );
        }
        Vec::new()
    }

    /// By size; nothing without the hugetlb controller.
    #[must_use]
    pub fn huge_pages(&self) -> Vec<HugePages> {
        let Some((directory, v2)) = self.controlled_by("hugetlb") else {
            return Vec::new();
        };
        let (current, most) = if v2 {
            (".current", "")
        } else {
            (".usage_in_bytes", ".max_usage_in_bytes")
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let size = name
                .strip_prefix("hugetlb.")
                .and_then(|rest| rest.strip_suffix(current))
                .filter(|size| !size.contains('.'));
            if let Some(size) = size {
                let max_usage = if v2 {
                    0
                } else {
                    read_number(&directory, &format!("hugetlb.{size}{most}")).unwrap_or(0)
                };
                found.push(HugePages {
                    size: size.to_owned(),
                    usage: read_number(&directory, &name).unwrap_or(0),
                    max_usage,
                });
            }
        }
        found.sort_by(|a, b| a.size.cmp(&b.size));
        found
    }

    /// Counts processes and what they have open, `first` being the container's own. Costs a look at every
    /// descriptor: for metrics, not for what is asked every second.
    #[must_use]
    pub fn census(&self, first: Option<u32>) -> Processes {
        let pids = self.pids();
        Processes {
            count: pids.len() as u64,
            descriptors: descriptors(&pids),
            open_files_limit: first
                .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok())
                .and_then(|text| open_files(&text)),
        }
    }

    fn pids(&self) -> Vec<u32> {
        let directory = self.v2_directory().or_else(|| {
            self.directories()
                .into_iter()
                .find(|directory| directory.exists())
        });
        let mut ahead: Vec<PathBuf> = directory.into_iter().collect();
        let mut pids = Vec::new();
        let mut seen = 0;
        while let Some(directory) = ahead.pop() {
            seen += 1;
            let text = read(&directory, "cgroup.procs").unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            if seen + ahead.len() >= MOST_CGROUPS || pids.len() >= MOST_PROCESSES {
                continue;
            }
            ahead.extend(children(&directory));
        }
        // 0 is a process that this PID namespace does not see.
        pids.retain(|pid| *pid != 0);
        pids.sort_unstable();
        pids.dedup();
        pids.truncate(MOST_PROCESSES);
        pids
    }
}

/// Whether cgroups of this node count huge pages.
#[must_use]
pub fn counts_huge_pages() -> bool {
    hierarchy::of_node().is_ok_and(|all| all.iter().any(|one| one.controls("hugetlb")))
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn descriptors(pids: &[u32]) -> Option<(u64, u64)> {
    let (mut open, mut sockets) = (0, 0);
    for pid in pids {
        // A process that ends meanwhile has none.
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            open += 1;
            if open > MOST_DESCRIPTORS {
                return None;
            }
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
                sockets += 1;
            }
        }
    }
    Some((open as u64, sockets))
}

/// proc_pid_limits(5): name, soft limit, hard limit and unit in columns.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn io_v2(text: &str) -> Vec<DeviceIo> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next().and_then(device) else {
            continue;
        };
        let mut io = DeviceIo {
            device,
            ..DeviceIo::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        found.push(io);
    }
    found
}

/// `8:0 Read 1`, a line an operation, and a sum without device.
fn io_v1(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut found: Vec<DeviceIo> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let &[device_text, operation, value] = words.as_slice() else {
                continue;
            };
            let (Some(device), Ok(value)) = (device(device_text), value.parse()) else {
                continue;
            };
            let place = found.iter().position(|io| io.device == device);
            let place = place.unwrap_or_else(|| {
                found.push(DeviceIo {
                    device,
                    ..DeviceIo::default()
                });
                found.len() - 1
            });
            match (operation, counts_bytes) {
                ("Read", true) => found[place].read_bytes = value,
                ("Write", true) => found[place].written_bytes = value,
                ("Read", false) => found[place].reads = value,
                ("Write", false) => found[place].writes = value,
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions_reads_the_same() {
        let expected = vec![DeviceIo {
            device: (254, 0),
            read_bytes: 4096,
            written_bytes: 512,
            reads: 3,
            writes: 1,
        }];
        let v2 = "254:0 rbytes=4096 wbytes=512 rios=3 wios=1 dbytes=0 dios=0\n(unknown) x=1\n";
        assert_eq!(io_v2(v2), expected);
        let bytes = "254:0 Read 4096\n254:0 Write 512\n254:0 Sync 0\n254:0 Total 4608\nTotal 4608\n";
        let operations = "254:0 Read 3\n254:0 Write 1\nTotal 4\n";
        assert_eq!(io_v1(bytes, operations), expected);
        assert!(io_v1("", "Total 0\n").is_empty() && io_v2("").is_empty());
    }

    #[test]
    fn this_process_has_descriptors_and_a_limit_of_open_files() {
        let (open, sockets) = descriptors(&[std::process::id()]).unwrap();
        assert!(open >= 3 && sockets <= open, "{open} {sockets}");
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert!(open_files(&limits).is_some() || limits.contains("Max open files            unlimited"));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files"),
            None
        );
    }
}
