//! What a cgroup used, read from the files of either version.

use std::path::Path;

use super::Cgroup;
use super::files::{find_key, read, read_key, read_number};
use crate::error::Error;

/// What a cgroup used, in the kernel's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes of memory charged.
    pub memory_usage: u64,
    /// Without inactive file pages, as the kubelet counts the working set.
    pub memory_working_set: u64,
    /// Anonymous memory in bytes.
    pub memory_rss: u64,
    /// Bytes until the limit; `None` without one.
    pub memory_limit: Option<u64>,
    /// Swap in bytes.
    pub swap_usage: u64,
    /// Bytes of swap until its limit; `None` without one, or where swap is not counted.
    pub swap_limit: Option<u64>,
    /// Minor and major page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Most processes and threads; `None` without a limit.
    pub pids_limit: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// Version 1 shows "no limit" as the largest number of whole pages.
const V1_NO_LIMIT: u64 = 1 << 62;

impl Cgroup {
    /// What it used. A controller that the node lacks reads as 0.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        if let Some((directory, v2)) = self
            .controlled_by("cpuacct")
            .or_else(|| self.controlled_by("cpu"))
        {
            stats.cpu_nanos = if v2 {
                read_key(&directory, "cpu.stat", "usage_usec")
                    .unwrap_or(0)
                    .saturating_mul(1000)
            } else {
                read_number(&directory, "cpuacct.usage").unwrap_or(0)
            };
        }
        if let Some((directory, v2)) = self.controlled_by("memory") {
            if v2 {
                memory_v2(&directory, &mut stats)?
            } else {
                memory_v1(&directory, &mut stats)?
            }
        }
        if let Some((directory, _)) = self.controlled_by("pids") {
            stats.pids = read_number(&directory, "pids.current").unwrap_or(0);
            stats.pids_limit = read_number(&directory, "pids.max").ok();
        }
        stats.oom_kills = self.oom_kill_count()?;
        Ok(stats)
    }

    /// How often the kernel killed here or below for want of memory. A cgroup that is gone counts 0.
    ///
    /// # Errors
    /// When the file is not as documented.
    pub fn oom_kill_count(&self) -> Result<u64, Error> {
        let Some((directory, v2)) = self.controlled_by("memory") else {
            return Ok(0);
        };
        let file = if v2 { "memory.events" } else { "memory.oom_control" };
        match read(&directory, file) {
            Ok(text) => Ok(find_key(&text, "oom_kill").unwrap_or(0)),
            Err(Error::Cgroup { source, .. })
                if matches!(source.raw_os_error(), Some(code) if code == rustix::io::Errno::NOENT.raw_os_error()
                    || code == rustix::io::Errno::NODEV.raw_os_error()) =>
            {
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

fn memory_v2(directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let detail = read(directory, "memory.stat")?;
    let key = |key: &str| find_key(&detail, key).unwrap_or(0);
    stats.memory_usage = read_number(directory, "memory.current")?;
    stats.memory_working_set = stats.memory_usage.saturating_sub(key("inactive_file"));
    stats.memory_rss = key("anon");
    stats.page_faults = key("pgfault");
    stats.major_page_faults = key("pgmajfault");
    stats.memory_limit = read_number(directory, "memory.max").ok();
    stats.swap_usage = read_number(directory, "memory.swap.current").unwrap_or(0);
    stats.swap_limit = read_number(directory, "memory.swap.max").ok();
    Ok(())
}

fn memory_v1(directory: &Path, stats: &mut Stats) -> Result<(), Error> {
    let detail = read(directory, "memory.stat")?;
    let key = |key: &str| find_key(&detail, key).unwrap_or(0);
    stats.memory_usage = read_number(directory, "memory.usage_in_bytes")?;
    stats.memory_working_set = stats.memory_usage.saturating_sub(key("total_inactive_file"));
    stats.memory_rss = key("total_rss");
    stats.page_faults = key("total_pgfault");
    stats.major_page_faults = key("total_pgmajfault");
    stats.swap_usage = key("total_swap");
    let limit = read_number(directory, "memory.limit_in_bytes")?;
    stats.memory_limit = (limit < V1_NO_LIMIT).then_some(limit);
    let both = read_number(directory, "memory.memsw.limit_in_bytes").ok();
    stats.swap_limit = both
        .filter(|both| *both < V1_NO_LIMIT)
        .map(|both| both.saturating_sub(limit));
    Ok(())
}
