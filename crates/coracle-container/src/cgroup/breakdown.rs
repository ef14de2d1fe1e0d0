//! Processor time and memory of a cgroup by what they went to: what metrics show beyond [`Stats`](super::Stats).

use super::Cgroup;
use super::files::{find_key, read, read_number};

/// Processor time and memory in parts; what the node's controllers do not tell is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breakdown {
    /// CPU time in programs, in nanoseconds.
    pub cpu_user_nanos: u64,
    /// CPU time in the kernel, in nanoseconds.
    pub cpu_system_nanos: u64,
    /// Periods in which the quota was looked after.
    pub cpu_periods: u64,
    /// Periods in which it ran out.
    pub cpu_throttled_periods: u64,
    /// Time that was waited for the next period, in nanoseconds.
    pub cpu_throttled_nanos: u64,
    /// Page cache in bytes.
    pub memory_cache: u64,
    /// Mapped files in bytes.
    pub memory_mapped_file: u64,
    /// Memory of the kernel's own in bytes (v2: Linux 5.18, before that its stacks).
    pub memory_kernel: u64,
    /// File pages that were used lately, in bytes.
    pub memory_active_file: u64,
    /// File pages that were not, in bytes.
    pub memory_inactive_file: u64,
    /// Most bytes there ever were (v2: Linux 5.19).
    pub memory_max_usage: u64,
    /// How often the limit was met; v2 counts it as `max` in `memory.events`.
    pub memory_limit_hits: u64,
}

impl Cgroup {
    /// Processor time and memory in parts. A cgroup that is gone has none.
    #[must_use]
    pub fn breakdown(&self) -> Breakdown {
        let mut parts = Breakdown::default();
        self.cpu_parts(&mut parts);
        self.memory_parts(&mut parts);
        parts
    }

    fn cpu_parts(&self, parts: &mut Breakdown) {
        if let Some((directory, v2)) = self
            .controlled_by("cpuacct")
            .or_else(|| self.controlled_by("cpu"))
        {
            if v2 {
                let text = read(&directory, "cpu.stat").unwrap_or_default();
                let micros = |key| find_key(&text, key).unwrap_or(0).saturating_mul(1000);
                parts.cpu_user_nanos = micros("user_usec");
                parts.cpu_system_nanos = micros("system_usec");
                parts.cpu_throttled_nanos = micros("throttled_usec");
                parts.cpu_periods = find_key(&text, "nr_periods").unwrap_or(0);
                parts.cpu_throttled_periods = find_key(&text, "nr_throttled").unwrap_or(0);
                return;
            }
            parts.cpu_user_nanos = read_number(&directory, "cpuacct.usage_user").unwrap_or(0);
            parts.cpu_system_nanos = read_number(&directory, "cpuacct.usage_sys").unwrap_or(0);
        }
        if let Some((directory, false)) = self.controlled_by("cpu") {
            let text = read(&directory, "cpu.stat").unwrap_or_default();
            let key = |key| find_key(&text, key).unwrap_or(0);
            parts.cpu_periods = key("nr_periods");
            parts.cpu_throttled_periods = key("nr_throttled");
            parts.cpu_throttled_nanos = key("throttled_time");
        }
    }

    fn memory_parts(&self, parts: &mut Breakdown) {
        let Some((directory, v2)) = self.controlled_by("memory") else {
            return;
        };
        let text = read(&directory, "memory.stat").unwrap_or_default();
        let key = |key| find_key(&text, key);
        let number = |file| read_number(&directory, file).unwrap_or(0);
        if v2 {
            parts.memory_cache = key("file").unwrap_or(0);
            parts.memory_mapped_file = key("file_mapped").unwrap_or(0);
            parts.memory_kernel = key("kernel").or_else(|| key("kernel_stack")).unwrap_or(0);
            parts.memory_active_file = key("active_file").unwrap_or(0);
            parts.memory_inactive_file = key("inactive_file").unwrap_or(0);
            parts.memory_max_usage = number("memory.peak");
            let events = read(&directory, "memory.events").unwrap_or_default();
            parts.memory_limit_hits = find_key(&events, "max").unwrap_or(0);
        } else {
            parts.memory_cache = key("total_cache").unwrap_or(0);
            parts.memory_mapped_file = key("total_mapped_file").unwrap_or(0);
            parts.memory_kernel = number("memory.kmem.usage_in_bytes");
            parts.memory_active_file = key("total_active_file").unwrap_or(0);
            parts.memory_inactive_file = key("total_inactive_file").unwrap_or(0);
            parts.memory_max_usage = number("memory.max_usage_in_bytes");
            parts.memory_limit_hits = number("memory.failcnt");
        }
    }
}
