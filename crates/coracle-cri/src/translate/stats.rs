//! What pods and containers use.

use coracle_engine::api::{ContainerFilter, IdPrefix, PodFilter};
use coracle_engine::stats::{
    CgroupUsage, ContainerStats, InterfaceCounters, PodStats, Pressure, Stall, Traffic,
};
use coracle_proto::cri;
use coracle_types::time::UnixNanos;

use super::{id_filter, image};

/// The interface that a pod is reached by, where it has one of that name.
const DEFAULT_INTERFACE: &str = "eth0";

pub(crate) fn container_filter(wire: Option<cri::ContainerStatsFilter>) -> ContainerFilter {
    let wire = wire.unwrap_or_default();
    ContainerFilter {
        id: id_filter(wire.id),
        pod: id_filter(wire.pod_sandbox_id),
        state: None,
        labels: wire.label_selector,
    }
}

pub(crate) fn pod_filter(wire: Option<cri::PodSandboxStatsFilter>) -> PodFilter {
    let wire = wire.unwrap_or_default();
    PodFilter {
        id: IdPrefix(wire.id),
        state: None,
        labels: wire.label_selector,
    }
}

fn number(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn stall(own: Stall) -> Option<cri::PsiData> {
    Some(cri::PsiData {
        total: own.total_micros.saturating_mul(1000),
        avg10: own.avg10,
        avg60: own.avg60,
        avg300: own.avg300,
    })
}

fn psi(own: Option<Pressure>) -> Option<cri::PsiStats> {
    own.map(|own| cri::PsiStats {
        full: stall(own.full),
        some: stall(own.some),
    })
}

fn cpu(own: &CgroupUsage) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: own.at.0,
        usage_core_nano_seconds: number(own.stats.cpu_nanos),
        usage_nano_cores: own.nano_cores.and_then(number),
        psi: psi(own.pressures.cpu),
    }
}

fn memory(own: &CgroupUsage) -> cri::MemoryUsage {
    let stats = &own.stats;
    let available = stats
        .memory_limit
        .map(|limit| limit.saturating_sub(stats.memory_working_set));
    cri::MemoryUsage {
        timestamp: own.at.0,
        working_set_bytes: number(stats.memory_working_set),
        available_bytes: available.and_then(number),
        usage_bytes: number(stats.memory_usage),
        rss_bytes: number(stats.memory_rss),
        page_faults: number(stats.page_faults),
        major_page_faults: number(stats.major_page_faults),
        psi: psi(own.pressures.memory),
    }
}

fn swap(own: &CgroupUsage) -> cri::SwapUsage {
    let available = own
        .stats
        .swap_limit
        .map(|limit| limit.saturating_sub(own.stats.swap_usage));
    cri::SwapUsage {
        timestamp: own.at.0,
        swap_available_bytes: available.and_then(number),
        swap_usage_bytes: number(own.stats.swap_usage),
    }
}

fn io(own: &CgroupUsage) -> cri::IoUsage {
    cri::IoUsage {
        timestamp: own.at.0,
        psi: psi(own.pressures.io),
    }
}

pub(crate) fn container(own: ContainerStats) -> cri::ContainerStats {
    let usage = own.usage.as_ref();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: own.container.id.into(),
            metadata: Some(cri::ContainerMetadata {
                name: own.container.metadata.name,
                attempt: own.container.metadata.attempt,
            }),
            labels: own.container.labels,
            annotations: own.container.annotations,
        }),
        cpu: usage.map(cpu),
        memory: usage.map(memory),
        writable_layer: own.writable.as_ref().map(image::usage),
        swap: usage.map(swap),
        io: usage.map(io),
    }
}

fn interface(own: &InterfaceCounters) -> cri::NetworkInterfaceUsage {
    let Traffic { bytes, errors, .. } = own.received;
    cri::NetworkInterfaceUsage {
        name: own.name.clone(),
        rx_bytes: number(bytes),
        rx_errors: number(errors),
        tx_bytes: number(own.sent.bytes),
        tx_errors: number(own.sent.errors),
    }
}

fn network(at: UnixNanos, own: &[InterfaceCounters]) -> cri::NetworkUsage {
    let interfaces: Vec<_> = own.iter().map(interface).collect();
    let default = interfaces
        .iter()
        .find(|interface| interface.name == DEFAULT_INTERFACE)
        .or(interfaces.first());
    cri::NetworkUsage {
        timestamp: at.0,
        default_interface: default.cloned(),
        interfaces,
    }
}

pub(crate) fn pod(own: PodStats) -> cri::PodSandboxStats {
    let usage = own.usage.as_ref();
    let metadata = own.pod.metadata;
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: own.pod.id.into(),
            metadata: Some(cri::PodSandboxMetadata {
                name: metadata.name,
                uid: metadata.uid,
                namespace: metadata.namespace,
                attempt: metadata.attempt,
            }),
            labels: own.pod.labels,
            annotations: own.pod.annotations,
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: usage.map(cpu),
            memory: usage.map(memory),
            network: own.network.map(|(at, counters)| network(at, &counters)),
            process: usage.map(|usage| cri::ProcessUsage {
                timestamp: usage.at.0,
                process_count: number(usage.stats.pids),
            }),
            io: usage.map(io),
            containers: own.containers.into_iter().map(container).collect(),
        }),
        windows: None,
    }
}
