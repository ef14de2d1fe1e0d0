//! Where the cgroups of pods and containers lie, and what systemd is told of their limits.

use std::mem::discriminant;

use coracle_systemd::{Property, SliceName, UNLIMITED, UnitName};
use coracle_types::Kind;
use coracle_types::cgroup2::{Limit, cpu_weight, io_weight, list, swap_limit};
use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::api::CgroupDriver;
use crate::config::EngineConfig;
use crate::error::EngineError;

/// What containerd calls its scopes: cAdvisor and others know a container's cgroup by it.
const PREFIX: &str = "cri-containerd";
/// Default of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;

/// Refuses a parent of the other driver: client and runtime must have the same, or limits of one would be undone
/// by the other.
pub(crate) fn check_parent(config: &EngineConfig, given: &str) -> Result<(), EngineError> {
    if given.is_empty() {
        return Ok(());
    }
    let slice = SliceName::of_path(given);
    let problem = match (config.cgroup_driver, slice) {
        (CgroupDriver::Systemd, Err(error)) => format!(
            "{error}. This runtime's cgroup driver is systemd: set cgroupDriver: systemd in the kubelet's configuration, \
             or cgroup.driver = \"cgroupfs\" here"
        ),
        (CgroupDriver::Cgroupfs, Ok(_)) => format!(
            "{given:?} is a slice of systemd's, and this runtime's cgroup driver is cgroupfs: set cgroupDriver: \
             cgroupfs in the kubelet's configuration, or cgroup.driver = \"systemd\" here"
        ),
        _ => return Ok(()),
    };
    Err(EngineError::new(
        Kind::InvalidArgument,
        "run pod sandbox",
        format!("linux.cgroup_parent: {problem}"),
    ))
}

/// A pod's cgroup: absolute in each hierarchy. An empty `given` is the default.
pub(crate) fn parent_path(config: &EngineConfig, given: &str) -> String {
    let given = if given.is_empty() {
        &config.default_cgroup_parent
    } else {
        given
    };
    match config.cgroup_driver {
        CgroupDriver::Systemd => {
            SliceName::of_path(given).map_or_else(|_| given.to_owned(), |slice| slice.path())
        }
        CgroupDriver::Cgroupfs => given.trim_end_matches('/').to_owned(),
    }
}

/// The cgroup of a container, or of a pod's init, below its pod's.
pub(crate) fn path_below(config: &EngineConfig, parent: &str, id: &str) -> String {
    match config.cgroup_driver {
        CgroupDriver::Systemd => format!("{parent}/{PREFIX}-{id}.scope"),
        CgroupDriver::Cgroupfs => format!("{parent}/{id}"),
    }
}

/// The id that a cgroup's name has in it.
pub(crate) fn id_in(name: &str) -> &str {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".scope"))
        .unwrap_or(name)
}

/// The scope that a cgroup is, with the slice it lies in.
pub(crate) fn scope_at(path: &str) -> Option<(SliceName, UnitName)> {
    let (slice, scope) = path.rsplit_once('/')?;
    let scope: UnitName = scope.parse().ok()?;
    let slice = SliceName::of_path(slice).ok()?;
    scope.as_str().ends_with(".scope").then_some((slice, scope))
}

/// Limits as systemd shall know them, so that it does not write others when it looks again (`daemon-reload`). What
/// it has no property for stands in the files alone. Numbers that cannot be are left out here: writing the files
/// refuses them in better words.
pub(crate) fn properties(resources: &LinuxResources) -> Vec<Property> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().and_then(Limit::of);
        all.extend(limit.map(|limit| Property::MemoryMax(number(limit))));
        if let Ok(Some(swap)) = swap_limit(limit, memory.swap()) {
            all.push(Property::MemorySwapMax(number(swap)));
        }
        let low = memory.reservation().and_then(Limit::of);
        all.extend(low.map(|low| Property::MemoryLow(number(low))));
    }
    if let Some(cpu) = resources.cpu() {
        of_processors(cpu, &mut all);
    }
    if let Some(pids) = resources.pids() {
        all.extend(Limit::of(pids.limit()).map(|limit| Property::TasksMax(number(limit))));
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|block| block.weight()) {
        all.push(Property::IoWeight(io_weight(weight)));
    }
    for (file, value) in resources.unified().iter().flatten() {
        for property in of_file(file, value) {
            all.retain(|known| discriminant(known) != discriminant(&property));
            all.push(property);
        }
    }
    all
}

fn number(limit: Limit) -> u64 {
    match limit {
        Limit::At(number) => number,
        Limit::None => UNLIMITED,
    }
}

fn of_processors(cpu: &LinuxCpu, all: &mut Vec<Property>) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        all.push(Property::CpuWeight(cpu_weight(shares)));
    }
    if let Some(quota) = cpu.quota().and_then(Limit::of) {
        all.extend(quota_of(quota, cpu.period().filter(|period| *period != 0)));
    }
    let set = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).and_then(list);
    all.extend(set(cpu.cpus()).map(Property::AllowedCpus));
    all.extend(set(cpu.mems()).map(Property::AllowedMemoryNodes));
}

/// systemd keeps whole percents of a processor: rounded up, since less than was asked would throttle.
fn quota_of(quota: Limit, period: Option<u64>) -> Vec<Property> {
    const PERCENT: u64 = 10_000;
    let mut all: Vec<_> = period.map(Property::CpuQuotaPeriod).into_iter().collect();
    all.push(Property::CpuQuotaPerSecond(match quota {
        Limit::None => UNLIMITED,
        Limit::At(micros) => {
            let a_second = u128::from(micros) * 1_000_000 / u128::from(period.unwrap_or(PERIOD).max(1));
            u64::try_from(a_second)
                .unwrap_or(UNLIMITED / 2)
                .max(1)
                .div_ceil(PERCENT)
                .saturating_mul(PERCENT)
        }
    }));
    all
}

/// A file of `unified`, where systemd has a property for it. `memory.oom.group` has none: OOMPolicy= says what
/// systemd does after a kill, not whom the kernel kills, and a delegated scope is left alone.
fn of_file(file: &str, value: &str) -> Vec<Property> {
    let limit = || Limit::parse(value).map(number);
    let one = match file {
        "memory.max" => limit().map(Property::MemoryMax),
        "memory.high" => limit().map(Property::MemoryHigh),
        "memory.low" => limit().map(Property::MemoryLow),
        "memory.min" => limit().map(Property::MemoryMin),
        "memory.swap.max" => limit().map(Property::MemorySwapMax),
        "pids.max" => limit().map(Property::TasksMax),
        "cpu.weight" => value.trim().parse().ok().map(Property::CpuWeight),
        "cpu.idle" if value.trim() == "1" => Some(Property::CpuWeight(0)),
        "io.weight" => value
            .trim()
            .trim_start_matches("default ")
            .parse()
            .ok()
            .map(Property::IoWeight),
        "cpuset.cpus" => list(value)
            .filter(|set| !set.is_empty())
            .map(Property::AllowedCpus),
        "cpuset.mems" => list(value)
            .filter(|set| !set.is_empty())
            .map(Property::AllowedMemoryNodes),
        "cpu.max" => {
            let mut words = value.split_ascii_whitespace();
            let quota = words.next().and_then(Limit::parse);
            let period = words.next().and_then(|word| word.parse().ok());
            return quota.map_or_else(Vec::new, |quota| quota_of(quota, period));
        }
        _ => None,
    };
    one.into_iter().collect()
}

#[cfg(test)]
mod tests;
