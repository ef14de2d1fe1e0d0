//! Every family of metrics: name, help, labels.

use super::{Family, cri::MetricType};

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
    Family {
        name,
        help,
        labels,
        kind: MetricType::Counter,
    }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
    Family {
        name,
        help,
        labels,
        kind: MetricType::Gauge,
    }
}

pub(super) const CPU_USAGE: Family = counter(
    "container_cpu_usage_seconds_total",
    "Processor time used, in seconds.",
    &[],
);
pub(super) const CPU_USER: Family = counter(
    "container_cpu_user_seconds_total",
    "Processor time used in programs, in seconds.",
    &[],
);
pub(super) const CPU_SYSTEM: Family = counter(
    "container_cpu_system_seconds_total",
    "Processor time used in the kernel, in seconds.",
    &[],
);
pub(super) const CPU_PERIODS: Family = counter(
    "container_cpu_cfs_periods_total",
    "Periods in which the processor quota was enforced.",
    &[],
);
pub(super) const CPU_THROTTLED_PERIODS: Family = counter(
    "container_cpu_cfs_throttled_periods_total",
    "Periods in which the processor quota ran out.",
    &[],
);
pub(super) const CPU_THROTTLED: Family = counter(
    "container_cpu_cfs_throttled_seconds_total",
    "Time that was waited for the next period, in seconds.",
    &[],
);
pub(super) const MEMORY_USAGE: Family = gauge(
    "container_memory_usage_bytes",
    "Memory in use, page cache included, in bytes.",
    &[],
);
pub(super) const MEMORY_WORKING_SET: Family = gauge(
    "container_memory_working_set_bytes",
    "Memory in use without inactive file pages, in bytes.",
    &[],
);
pub(super) const MEMORY_RSS: Family = gauge("container_memory_rss", "Anonymous memory, in bytes.", &[]);
pub(super) const MEMORY_SWAP: Family = gauge("container_memory_swap", "Swap in use, in bytes.", &[]);
pub(super) const MEMORY_CACHE: Family = gauge("container_memory_cache", "Page cache, in bytes.", &[]);
pub(super) const MEMORY_MAPPED_FILE: Family =
    gauge("container_memory_mapped_file", "Mapped files, in bytes.", &[]);
pub(super) const MEMORY_KERNEL: Family = gauge(
    "container_memory_kernel_usage",
    "Memory of the kernel on behalf of the container, in bytes.",
    &[],
);
pub(super) const MEMORY_ACTIVE_FILE: Family = gauge(
    "container_memory_total_active_file_bytes",
    "File pages used lately, in bytes.",
    &[],
);
pub(super) const MEMORY_INACTIVE_FILE: Family = gauge(
    "container_memory_total_inactive_file_bytes",
    "File pages not used lately, in bytes.",
    &[],
);
pub(super) const MEMORY_MAX: Family = gauge(
    "container_memory_max_usage_bytes",
    "Most memory there ever was in use, in bytes.",
    &[],
);
pub(super) const MEMORY_FAILCNT: Family = counter(
    "container_memory_failcnt",
    "How often the memory limit was met.",
    &[],
);
pub(super) const MEMORY_FAILURES: Family = counter(
    "container_memory_failures_total",
    "Page faults, by type.",
    &["failure_type", "scope"],
);
pub(super) const OOM_EVENTS: Family = counter(
    "container_oom_events_total",
    "Processes killed for want of memory.",
    &[],
);
pub(super) const HUGETLB_USAGE: Family = gauge(
    "container_hugetlb_usage_bytes",
    "Huge pages in use, by size, in bytes.",
    &["pagesize"],
);
pub(super) const HUGETLB_MAX: Family = gauge(
    "container_hugetlb_max_usage_bytes",
    "Most huge pages there ever were in use, by size, in bytes; on cgroup v2 those in use now.",
    &["pagesize"],
);
pub(super) const CPU_WAITING: Family = counter(
    "container_pressure_cpu_waiting_seconds_total",
    "Time in which some task waited for a processor, in seconds.",
    &[],
);
pub(super) const CPU_STALLED: Family = counter(
    "container_pressure_cpu_stalled_seconds_total",
    "Time in which all tasks waited for a processor, in seconds.",
    &[],
);
pub(super) const MEMORY_WAITING: Family = counter(
    "container_pressure_memory_waiting_seconds_total",
    "Time in which some task waited for memory, in seconds.",
    &[],
);
pub(super) const MEMORY_STALLED: Family = counter(
    "container_pressure_memory_stalled_seconds_total",
    "Time in which all tasks waited for memory, in seconds.",
    &[],
);
pub(super) const IO_WAITING: Family = counter(
    "container_pressure_io_waiting_seconds_total",
    "Time in which some task waited for a device, in seconds.",
    &[],
);
pub(super) const IO_STALLED: Family = counter(
    "container_pressure_io_stalled_seconds_total",
    "Time in which all tasks waited for a device, in seconds.",
    &[],
);
pub(super) const RECEIVED_BYTES: Family = counter(
    "container_network_receive_bytes_total",
    "Bytes received.",
    &["interface"],
);
pub(super) const RECEIVED_PACKETS: Family = counter(
    "container_network_receive_packets_total",
    "Packets received.",
    &["interface"],
);
pub(super) const RECEIVED_DROPPED: Family = counter(
    "container_network_receive_packets_dropped_total",
    "Packets dropped while receiving.",
    &["interface"],
);
pub(super) const RECEIVED_ERRORS: Family = counter(
    "container_network_receive_errors_total",
    "Errors while receiving.",
    &["interface"],
);
pub(super) const SENT_BYTES: Family = counter(
    "container_network_transmit_bytes_total",
    "Bytes sent.",
    &["interface"],
);
pub(super) const SENT_PACKETS: Family = counter(
    "container_network_transmit_packets_total",
    "Packets sent.",
    &["interface"],
);
pub(super) const SENT_DROPPED: Family = counter(
    "container_network_transmit_packets_dropped_total",
    "Packets dropped while sending.",
    &["interface"],
);
pub(super) const SENT_ERRORS: Family = counter(
    "container_network_transmit_errors_total",
    "Errors while sending.",
    &["interface"],
);
pub(super) const FS_USAGE: Family = gauge(
    "container_fs_usage_bytes",
    "The writable layer, in bytes by blocks; 0 before it was counted first.",
    &["device"],
);
pub(super) const FS_LIMIT: Family = gauge(
    "container_fs_limit_bytes",
    "The file system of the writable layer, in bytes.",
    &["device"],
);
pub(super) const FS_INODES: Family = gauge(
    "container_fs_inodes_total",
    "Inodes of the file system of the writable layer.",
    &["device"],
);
pub(super) const FS_INODES_FREE: Family = gauge(
    "container_fs_inodes_free",
    "Inodes that may still be made there.",
    &["device"],
);
pub(super) const FS_READS_BYTES: Family = counter(
    "container_fs_reads_bytes_total",
    "Bytes read from devices.",
    &["device"],
);
pub(super) const FS_READS: Family = counter("container_fs_reads_total", "Reads from devices.", &["device"]);
pub(super) const FS_WRITES_BYTES: Family = counter(
    "container_fs_writes_bytes_total",
    "Bytes written to devices.",
    &["device"],
);
pub(super) const FS_WRITES: Family = counter("container_fs_writes_total", "Writes to devices.", &["device"]);
pub(super) const BLKIO: Family = counter(
    "container_blkio_device_usage_total",
    "Bytes moved, by device and operation.",
    &["device", "major", "minor", "operation"],
);
pub(super) const PROCESSES: Family = gauge("container_processes", "Processes.", &[]);
pub(super) const THREADS: Family = gauge("container_threads", "Processes and their threads.", &[]);
pub(super) const THREADS_MAX: Family = gauge(
    "container_threads_max",
    "Most processes and threads there may be; 0 without a limit.",
    &[],
);
pub(super) const FILE_DESCRIPTORS: Family = gauge(
    "container_file_descriptors",
    "Open descriptors; left out where there are more than can be looked at.",
    &[],
);
pub(super) const SOCKETS: Family = gauge(
    "container_sockets",
    "Open sockets; left out with the descriptors.",
    &[],
);
pub(super) const ULIMITS: Family = gauge(
    "container_ulimits_soft",
    "Soft limits of the first process.",
    &["ulimit"],
);
pub(super) const LAST_SEEN: Family = gauge(
    "container_last_seen",
    "When the container was measured, in seconds since 1970.",
    &[],
);
pub(super) const START_TIME: Family = gauge(
    "container_start_time_seconds",
    "When the container was started, in seconds since 1970.",
    &[],
);
pub(super) const SPEC_PERIOD: Family = gauge(
    "container_spec_cpu_period",
    "Period of the processor quota, in microseconds.",
    &[],
);
pub(super) const SPEC_QUOTA: Family = gauge(
    "container_spec_cpu_quota",
    "Processor quota a period, in microseconds; 0 without a limit.",
    &[],
);
pub(super) const SPEC_SHARES: Family = gauge(
    "container_spec_cpu_shares",
    "Weight of the container among others, as cgroup v1 counts.",
    &[],
);
pub(super) const SPEC_MEMORY: Family = gauge(
    "container_spec_memory_limit_bytes",
    "Memory limit, in bytes; 0 without one.",
    &[],
);
pub(super) const SPEC_RESERVATION: Family = gauge(
    "container_spec_memory_reservation_limit_bytes",
    "Memory reserved, in bytes; CRI has no field for it: 0.",
    &[],
);
pub(super) const SPEC_SWAP: Family = gauge(
    "container_spec_memory_swap_limit_bytes",
    "Limit of memory and swap together, in bytes; 0 without one.",
    &[],
);

/// In one direction: bytes, packets, dropped, errors.
pub(super) const RECEIVED: [&Family; 4] = [
    &RECEIVED_BYTES,
    &RECEIVED_PACKETS,
    &RECEIVED_DROPPED,
    &RECEIVED_ERRORS,
];
/// Likewise.
pub(super) const SENT: [&Family; 4] = [&SENT_BYTES, &SENT_PACKETS, &SENT_DROPPED, &SENT_ERRORS];

/// In the order they are advertised.
pub(super) const ALL: [&Family; 58] = [
    &CPU_USAGE,
    &CPU_USER,
    &CPU_SYSTEM,
    &CPU_PERIODS,
    &CPU_THROTTLED_PERIODS,
    &CPU_THROTTLED,
    &MEMORY_USAGE,
    &MEMORY_WORKING_SET,
    &MEMORY_RSS,
    &MEMORY_SWAP,
    &MEMORY_CACHE,
    &MEMORY_MAPPED_FILE,
    &MEMORY_KERNEL,
    &MEMORY_ACTIVE_FILE,
    &MEMORY_INACTIVE_FILE,
    &MEMORY_MAX,
    &MEMORY_FAILCNT,
    &MEMORY_FAILURES,
    &OOM_EVENTS,
    &HUGETLB_USAGE,
    &HUGETLB_MAX,
    &CPU_WAITING,
    &CPU_STALLED,
    &MEMORY_WAITING,
    &MEMORY_STALLED,
    &IO_WAITING,
    &IO_STALLED,
    &RECEIVED_BYTES,
    &RECEIVED_PACKETS,
    &RECEIVED_DROPPED,
    &RECEIVED_ERRORS,
    &SENT_BYTES,
    &SENT_PACKETS,
    &SENT_DROPPED,
    &SENT_ERRORS,
    &FS_USAGE,
    &FS_LIMIT,
    &FS_INODES,
    &FS_INODES_FREE,
    &FS_READS_BYTES,
    &FS_READS,
    &FS_WRITES_BYTES,
    &FS_WRITES,
    &BLKIO,
    &PROCESSES,
    &THREADS,
    &THREADS_MAX,
    &FILE_DESCRIPTORS,
    &SOCKETS,
    &ULIMITS,
    &LAST_SEEN,
    &START_TIME,
    &SPEC_PERIOD,
    &SPEC_QUOTA,
    &SPEC_SHARES,
    &SPEC_MEMORY,
    &SPEC_RESERVATION,
    &SPEC_SWAP,
];
