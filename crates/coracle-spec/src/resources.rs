//! Limits of a container in the runtime specification's form, for creation and for updates.

use std::collections::HashMap;

use coracle_types::resources::LinuxResources as Requested;
use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxPids, LinuxResources,
};

use crate::error::SpecError;
use crate::host::{CgroupVersion, Host};

const FIELD: &str = "linux.resources";

/// Limits without device rules; zero and empty leave a limit as it is. Without a limit on swap, swap
/// is limited to memory's limit: no swapping, as the kubelet expects. Limits of huge pages are left
/// out where the controller is missing, because the kubelet sends them for every page size.
///
/// # Errors
/// [`SpecError::Unsupported`] for `unified` entries on cgroup v1.
pub fn linux_resources(
    requested: &Requested,
    pids_limit: Option<i64>,
    host: &Host,
) -> Result<LinuxResources, SpecError> {
    if host.cgroup == CgroupVersion::V1
        && let Some(key) = requested.unified.keys().next()
    {
        return Err(SpecError::unsupported(
            format!("{FIELD}.unified"),
            key,
            "this node has cgroup v1; use the other fields of the resources or boot with cgroup v2",
        ));
    }
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu(requested)));
    resources.set_memory(Some(memory(requested, host)));
    if let Some(limit) = pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if host.hugetlb && !requested.hugepage_limits.is_empty() {
        resources.set_hugepage_limits(Some(hugepages(requested)));
    }
    if !requested.unified.is_empty() {
        let unified: HashMap<_, _> = requested
            .unified
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        resources.set_unified(Some(unified));
    }
    Ok(resources)
}

fn cpu(requested: &Requested) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    cpu.set_shares(positive(requested.cpu_shares));
    cpu.set_period(positive(requested.cpu_period));
    cpu.set_quota(Some(requested.cpu_quota).filter(|quota| *quota != 0));
    cpu.set_cpus(text(&requested.cpuset_cpus));
    cpu.set_mems(text(&requested.cpuset_mems));
    cpu
}

fn memory(requested: &Requested, host: &Host) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    let limit = Some(requested.memory_limit_in_bytes).filter(|limit| *limit != 0);
    memory.set_limit(limit);
    if host.swap_limit {
        memory.set_swap(
            Some(requested.memory_swap_limit_in_bytes)
                .filter(|swap| *swap != 0)
                .or(limit),
        );
    }
    memory
}

fn hugepages(requested: &Requested) -> Vec<LinuxHugepageLimit> {
    requested
        .hugepage_limits
        .iter()
        .map(|limit| {
            LinuxHugepageLimitBuilder::default()
                .page_size(limit.page_size.clone())
                .limit(i64::try_from(limit.limit).unwrap_or(i64::MAX))
                .build()
                .expect("every field of the builder has a default")
        })
        .collect()
}

/// Refuses values that would be written wrongly to a cgroup's files or into a path.
///
/// # Errors
/// [`SpecError::Field`] naming the field.
pub fn validate_resources(requested: &Requested) -> Result<(), SpecError> {
    for (name, value, least) in [
        ("cpu_period", requested.cpu_period, 0),
        ("cpu_shares", requested.cpu_shares, 0),
        ("cpu_quota", requested.cpu_quota, -1),
        ("memory_limit_in_bytes", requested.memory_limit_in_bytes, -1),
        (
            "memory_swap_limit_in_bytes",
            requested.memory_swap_limit_in_bytes,
            -1,
        ),
    ] {
        if value < least {
            let remedy = format!("give {least} or more; 0 leaves it unset");
            return Err(SpecError::field(
                format!("{FIELD}.{name}"),
                value.to_string(),
                remedy,
            ));
        }
    }
    if !(-1000..=1000).contains(&requested.oom_score_adj) {
        let value = requested.oom_score_adj.to_string();
        return Err(SpecError::field(
            format!("{FIELD}.oom_score_adj"),
            value,
            "give -1000 to 1000",
        ));
    }
    let (limit, swap) = (
        requested.memory_limit_in_bytes,
        requested.memory_swap_limit_in_bytes,
    );
    if limit > 0 && swap > 0 && swap < limit {
        return Err(SpecError::field(
            format!("{FIELD}.memory_swap_limit_in_bytes"),
            swap.to_string(),
            format!("it counts memory and swap together: give at least the memory limit, {limit}"),
        ));
    }
    for (name, value) in [
        ("cpuset_cpus", &requested.cpuset_cpus),
        ("cpuset_mems", &requested.cpuset_mems),
    ] {
        if value.len() > 4096
            || !value
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b',' || b == b'-')
        {
            return Err(SpecError::field(
                format!("{FIELD}.{name}"),
                value,
                "give a list such as 0-3,7",
            ));
        }
    }
    for limit in &requested.hugepage_limits {
        let digits = limit.page_size.trim_start_matches(|c: char| c.is_ascii_digit());
        if digits.len() == limit.page_size.len() || !["KB", "MB", "GB"].contains(&digits) {
            let field = format!("{FIELD}.hugepage_limits.page_size");
            return Err(SpecError::field(
                field,
                &limit.page_size,
                "give a size such as 2MB or 1GB",
            ));
        }
    }
    validate_unified(requested)
}

/// Keys name files of the container's cgroup; those that move processes or delegate are no limits.
fn validate_unified(requested: &Requested) -> Result<(), SpecError> {
    for (key, value) in &requested.unified {
        let field = format!("{FIELD}.unified");
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-KMGB".contains(&b);
        let named = key.split_once('.').is_some_and(|(controller, _)| {
            [
                "cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc", "dmem",
            ]
            .contains(&controller)
        });
        if key.len() > 64 || !key.bytes().all(letters) || key.contains("..") || !named {
            return Err(SpecError::field(
                field,
                key,
                "name a limit of a controller, such as memory.high",
            ));
        }
        if value.len() > 4096 || value.chars().any(char::is_control) {
            return Err(SpecError::field(
                format!("{field}[{key}]"),
                value,
                "give one line of text",
            ));
        }
    }
    Ok(())
}
