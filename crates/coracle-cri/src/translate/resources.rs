//! Limits, field for field.

use coracle_proto::cri;
use coracle_types::resources::{HugepageLimit, LinuxResources};

pub(crate) fn from_wire(wire: cri::LinuxContainerResources) -> LinuxResources {
    LinuxResources {
        cpu_period: wire.cpu_period,
        cpu_quota: wire.cpu_quota,
        cpu_shares: wire.cpu_shares,
        memory_limit_in_bytes: wire.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: wire.memory_swap_limit_in_bytes,
        oom_score_adj: wire.oom_score_adj,
        cpuset_cpus: wire.cpuset_cpus,
        cpuset_mems: wire.cpuset_mems,
        hugepage_limits: wire
            .hugepage_limits
            .into_iter()
            .map(|limit| HugepageLimit {
                page_size: limit.page_size,
                limit: limit.limit,
            })
            .collect(),
        unified: wire.unified,
    }
}

pub(crate) fn to_wire(own: LinuxResources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: own.cpu_period,
        cpu_quota: own.cpu_quota,
        cpu_shares: own.cpu_shares,
        memory_limit_in_bytes: own.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: own.memory_swap_limit_in_bytes,
        oom_score_adj: own.oom_score_adj,
        cpuset_cpus: own.cpuset_cpus,
        cpuset_mems: own.cpuset_mems,
        hugepage_limits: own
            .hugepage_limits
            .into_iter()
            .map(|limit| cri::HugepageLimit {
                page_size: limit.page_size,
                limit: limit.limit,
            })
            .collect(),
        unified: own.unified,
    }
}
