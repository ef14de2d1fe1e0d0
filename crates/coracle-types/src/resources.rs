//! Resource limits of pods and containers (CRI `LinuxContainerResources`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits as CRI gives them; 0 or an empty string leaves a limit unset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxResources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds a period; negative is unlimited.
    pub cpu_quota: i64,
    /// Relative weight, 2..262144 as cgroup v1 counts.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory_limit_in_bytes: i64,
    /// Bytes of memory and swap together.
    pub memory_swap_limit_in_bytes: i64,
    /// -1000..1000.
    pub oom_score_adj: i64,
    /// `0-3,7`.
    pub cpuset_cpus: String,
    /// `0-1`.
    pub cpuset_mems: String,
    /// Page size ("2MB") to bytes.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 file name to content.
    pub unified: BTreeMap<String, String>,
}

/// A limit on huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As the hugetlb controller spells it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}
