//! Metrics under the names and labels that readers of cAdvisor know.
//!
//! CRI's values are whole numbers, so times are whole seconds.

use coracle_engine::stats::{ContainerMetrics, Measures, PodMetrics, Pressure};
use coracle_proto::cri;

mod families;

/// Labels that every metric begins with.
const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// A metric's name and what it means.
struct Family {
    name: &'static str,
    help: &'static str,
    /// Labels after those that all have.
    labels: &'static [&'static str],
    kind: cri::MetricType,
}

/// All that this node can give a value for.
pub(crate) fn descriptors(measures: Measures) -> Vec<cri::MetricDescriptor> {
    let offered = |family: &&&Family| match family.name {
        name if name.starts_with("container_pressure_") => measures.pressure,
        name if name.starts_with("container_hugetlb_") => measures.huge_pages,
        _ => true,
    };
    families::ALL
        .iter()
        .filter(offered)
        .map(|family| cri::MetricDescriptor {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
            label_keys: LABELS
                .iter()
                .chain(family.labels)
                .map(|label| (*label).to_owned())
                .collect(),
        })
        .collect()
}

/// Metrics of one thing: a container, or a pod as such.
struct Page {
    labels: [String; LABELS.len()],
    at: i64,
    metrics: Vec<cri::Metric>,
}

impl Page {
    fn put(&mut self, family: &Family, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let further = labels.iter().map(|label| (*label).to_owned());
        self.metrics.push(cri::Metric {
            name: family.name.to_owned(),
            timestamp: self.at,
            metric_type: family.kind.into(),
            label_values: self.labels.iter().cloned().chain(further).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }
}

pub(crate) fn pod(own: &PodMetrics) -> cri::PodSandboxMetrics {
    let metadata = &own.pod.metadata;
    let page = |container: &str, id: &str, image: &str| Page {
        labels: [&*metadata.name, &*metadata.namespace, container, id, image].map(str::to_owned),
        at: own.at.0,
        metrics: Vec::new(),
    };
    let mut network = page("", own.pod.id.as_str(), "");
    for interface in own.network.iter().flatten() {
        for (families, traffic) in [
            (families::RECEIVED, interface.received),
            (families::SENT, interface.sent),
        ] {
            let values = [traffic.bytes, traffic.packets, traffic.dropped, traffic.errors];
            for (family, value) in families.into_iter().zip(values) {
                network.put(family, &[&interface.name], value);
            }
        }
    }
    let containers = own.containers.iter().map(|container| {
        let summary = &container.stats.container;
        let image = match &*summary.image.user_specified_image {
            "" => &summary.image.image,
            named => named,
        };
        let mut page = page(&summary.metadata.name, summary.id.as_str(), image);
        fill(&mut page, container, own);
        cri::ContainerMetrics {
            container_id: summary.id.to_string(),
            metrics: page.metrics,
        }
    });
    cri::PodSandboxMetrics {
        pod_sandbox_id: own.pod.id.to_string(),
        container_metrics: containers.collect(),
        metrics: network.metrics,
    }
}

fn fill(page: &mut Page, own: &ContainerMetrics, pod: &PodMetrics) {
    page.put(&families::LAST_SEEN, &[], seconds(pod.at.0.unsigned_abs()));
    page.put(
        &families::START_TIME,
        &[],
        seconds(own.started_at.0.unsigned_abs()),
    );
    cpu_and_memory(page, own);
    pressure(page, own);
    disk(page, own, pod);
    processes(page, own);
    limits(page, own);
}

fn seconds(nanos: u64) -> u64 {
    nanos / 1_000_000_000
}

fn cpu_and_memory(page: &mut Page, own: &ContainerMetrics) {
    let Some(usage) = &own.stats.usage else { return };
    let (stats, parts) = (&usage.stats, &own.detail.breakdown);
    for (family, value) in [
        (&families::CPU_USAGE, seconds(stats.cpu_nanos)),
        (&families::CPU_USER, seconds(parts.cpu_user_nanos)),
        (&families::CPU_SYSTEM, seconds(parts.cpu_system_nanos)),
        (&families::CPU_PERIODS, parts.cpu_periods),
        (&families::CPU_THROTTLED_PERIODS, parts.cpu_throttled_periods),
        (&families::CPU_THROTTLED, seconds(parts.cpu_throttled_nanos)),
        (&families::MEMORY_USAGE, stats.memory_usage),
        (&families::MEMORY_WORKING_SET, stats.memory_working_set),
        (&families::MEMORY_RSS, stats.memory_rss),
        (&families::MEMORY_SWAP, stats.swap_usage),
        (&families::MEMORY_CACHE, parts.memory_cache),
        (&families::MEMORY_MAPPED_FILE, parts.memory_mapped_file),
        (&families::MEMORY_KERNEL, parts.memory_kernel),
        (&families::MEMORY_ACTIVE_FILE, parts.memory_active_file),
        (&families::MEMORY_INACTIVE_FILE, parts.memory_inactive_file),
        (&families::MEMORY_MAX, parts.memory_max_usage),
        (&families::MEMORY_FAILCNT, parts.memory_limit_hits),
        (&families::OOM_EVENTS, stats.oom_kills),
    ] {
        page.put(family, &[], value);
    }
    page.put(
        &families::MEMORY_FAILURES,
        &["pgfault", "container"],
        stats.page_faults,
    );
    page.put(
        &families::MEMORY_FAILURES,
        &["pgmajfault", "container"],
        stats.major_page_faults,
    );
    for pages in &own.detail.huge_pages {
        page.put(&families::HUGETLB_USAGE, &[&pages.size], pages.usage);
        page.put(
            &families::HUGETLB_MAX,
            &[&pages.size],
            pages.max_usage.max(pages.usage),
        );
    }
}

fn pressure(page: &mut Page, own: &ContainerMetrics) {
    let Some(usage) = &own.stats.usage else { return };
    let of = &usage.pressures;
    for (waiting, stalled, found) in [
        (&families::CPU_WAITING, &families::CPU_STALLED, of.cpu),
        (&families::MEMORY_WAITING, &families::MEMORY_STALLED, of.memory),
        (&families::IO_WAITING, &families::IO_STALLED, of.io),
    ] {
        if let Some(Pressure { some, full }) = found {
            page.put(waiting, &[], some.total_micros / 1_000_000);
            page.put(stalled, &[], full.total_micros / 1_000_000);
        }
    }
}

fn disk(page: &mut Page, own: &ContainerMetrics, pod: &PodMetrics) {
    const ROOT: &str = "/";
    let used = own.stats.writable.as_ref().map_or(0, |usage| usage.used_bytes);
    page.put(&families::FS_USAGE, &[ROOT], used);
    if let Some(capacity) = pod.capacity {
        page.put(&families::FS_LIMIT, &[ROOT], capacity.bytes);
        page.put(&families::FS_INODES, &[ROOT], capacity.inodes);
        page.put(&families::FS_INODES_FREE, &[ROOT], capacity.inodes_free);
    }
    // A container that touched no device yet has one entry without a name, so that the family is there.
    let nothing = [coracle_engine::stats::DeviceIo::default()];
    let devices = match &*own.detail.io {
        [] => &nothing,
        some => some,
    };
    for io in devices {
        let (major, minor) = (io.device.0.to_string(), io.device.1.to_string());
        let device = match io.device {
            (0, 0) => String::new(),
            _ => format!("{major}:{minor}"),
        };
        page.put(&families::FS_READS_BYTES, &[&device], io.read_bytes);
        page.put(&families::FS_READS, &[&device], io.reads);
        page.put(&families::FS_WRITES_BYTES, &[&device], io.written_bytes);
        page.put(&families::FS_WRITES, &[&device], io.writes);
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
            page.put(&families::BLKIO, &[&device, &major, &minor, operation], bytes);
        }
    }
}

fn processes(page: &mut Page, own: &ContainerMetrics) {
    let processes = &own.detail.processes;
    page.put(&families::PROCESSES, &[], processes.count);
    if let Some((descriptors, sockets)) = processes.descriptors {
        page.put(&families::FILE_DESCRIPTORS, &[], descriptors);
        page.put(&families::SOCKETS, &[], sockets);
    }
    if let Some(usage) = &own.stats.usage {
        page.put(&families::THREADS, &[], usage.stats.pids);
        page.put(&families::THREADS_MAX, &[], usage.stats.pids_limit.unwrap_or(0));
    }
    if let Some(limit) = processes.open_files_limit {
        page.put(&families::ULIMITS, &["max_open_files"], limit);
    }
}

/// 0 is no limit, but for what the kernel has a default of.
fn limits(page: &mut Page, own: &ContainerMetrics) {
    let limit = |value: i64| u64::try_from(value).unwrap_or(0);
    let or_default = |value: i64, default: u64| match limit(value) {
        0 => default,
        given => given,
    };
    let resources = &own.resources;
    page.put(
        &families::SPEC_PERIOD,
        &[],
        or_default(resources.cpu_period, 100_000),
    );
    page.put(&families::SPEC_QUOTA, &[], limit(resources.cpu_quota));
    page.put(
        &families::SPEC_SHARES,
        &[],
        or_default(resources.cpu_shares, 1024),
    );
    page.put(
        &families::SPEC_MEMORY,
        &[],
        limit(resources.memory_limit_in_bytes),
    );
    // CRI has no field for it.
    page.put(&families::SPEC_RESERVATION, &[], 0);
    page.put(
        &families::SPEC_SWAP,
        &[],
        limit(resources.memory_swap_limit_in_bytes),
    );
}

#[cfg(test)]
mod tests;
