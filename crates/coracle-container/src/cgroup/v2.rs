//! Limits in the files of cgroup version 2, converted from the version 1 numbers that OCI speaks in.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::files::{exists, read, write, write_if_there};
use super::hierarchy::Hierarchy;
use crate::error::Error;

/// Controllers that children need for the limits known here.
const WANTED: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];

/// Lets children of `directory` (made so far from `root`) have controllers of their own.
///
/// What is refused (EBUSY: the cgroup has processes) is found when a limit is written.
pub(super) fn delegate(hierarchy: &Hierarchy, root: &Path, parent: &Path) -> Result<(), Error> {
    let wanted: Vec<&str> = WANTED
        .into_iter()
        .filter(|controller| hierarchy.controls(controller))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let missing = |directory: &Path| -> Result<Vec<&str>, Error> {
        let have = read(directory, "cgroup.subtree_control")?;
        let have: Vec<&str> = have.split_ascii_whitespace().collect();
        Ok(wanted
            .iter()
            .copied()
            .filter(|controller| !have.contains(controller))
            .collect())
    };
    if missing(parent)?.is_empty() {
        return Ok(());
    }
    let below = parent.strip_prefix(root).unwrap_or(Path::new(""));
    let mut directory = root.to_path_buf();
    let mut parts = below.components();
    loop {
        for controller in missing(&directory)? {
            let _ = write(&directory, "cgroup.subtree_control", &format!("+{controller}"));
        }
        match parts.next() {
            Some(part) => directory.push(part),
            None => return Ok(()),
        }
    }
}

/// Applies what the controllers of this hierarchy limit.
pub(super) fn apply(
    hierarchy: &Hierarchy,
    directory: &Path,
    resources: &LinuxResources,
) -> Result<(), Error> {
    if hierarchy.controls("memory")
        && let Some(memory) = resources.memory()
    {
        apply_memory(directory, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        if hierarchy.controls("cpu") {
            apply_cpu(directory, cpu)?;
        }
        if hierarchy.controls("cpuset") {
            for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
                if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                    write(directory, file, value)?;
                }
            }
        }
    }
    if hierarchy.controls("pids")
        && let Some(limit) = super::pids_limit(resources)
    {
        write(directory, "pids.max", &limit)?;
    }
    if hierarchy.controls("hugetlb") {
        for limit in resources.hugepage_limits().iter().flatten() {
            let size = super::page_size(limit.page_size())?;
            let bytes = limit.limit().to_string();
            // A page size of the request may be one that this machine does not have.
            if limit.limit() == 0 {
                write_if_there(directory, &format!("hugetlb.{size}.max"), &bytes)?;
            } else {
                write(directory, &format!("hugetlb.{size}.max"), &bytes)?;
            }
            write_if_there(directory, &format!("hugetlb.{size}.rsvd.max"), &bytes)?;
        }
    }
    if hierarchy.controls("io")
        && let Some(block) = resources.block_io()
    {
        apply_io(directory, block)?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        let plain = !file.is_empty()
            && file
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_')
            && file.contains('.')
            && !file.starts_with("cgroup.");
        if !plain {
            return Err(Error::spec(
                "linux.resources.unified",
                file.as_str(),
                "give the name of a controller's file, as memory.high",
            ));
        }
        write(directory, file, value)?;
    }
    Ok(())
}

fn apply_memory(directory: &Path, memory: &LinuxMemory) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(both) = memory.swap().filter(|swap| *swap != 0) {
        let swap = match (both, limit) {
            (..0, _) => Some("max".into()),
            (both, Some(limit)) if limit > 0 => Some((both - limit).max(0).to_string()),
            _ => None,
        };
        if let Some(swap) = swap {
            write_if_there(directory, "memory.swap.max", &swap)?;
        }
    }
    if let Some(limit) = limit {
        write(directory, "memory.max", &max_below_zero(limit))?;
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        write(directory, "memory.low", &max_below_zero(reservation))?;
    }
    Ok(())
}

fn max_below_zero(number: i64) -> String {
    if number < 0 {
        "max".into()
    } else {
        number.to_string()
    }
}

fn apply_cpu(directory: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(idle) = cpu.idle() {
        write_if_there(directory, "cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
        && cpu.idle() != Some(1)
    {
        write(directory, "cpu.weight", &weight(shares).to_string())?;
    }
    let (quota, period) = (
        cpu.quota().filter(|quota| *quota != 0),
        cpu.period().filter(|period| *period != 0),
    );
    if quota.is_some() || period.is_some() {
        let now = read(directory, "cpu.max")?;
        let now_quota = now.split_ascii_whitespace().next().unwrap_or("max").to_owned();
        let quota = quota.map_or(now_quota, max_below_zero);
        let value = period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
        write(directory, "cpu.max", &value)?;
    }
    if let Some(burst) = cpu.burst() {
        write_if_there(directory, "cpu.max.burst", &burst.to_string())?;
    }
    Ok(())
}

/// `cpu.weight` 1..10000 for `cpu.shares` 2..262144, with 1024 becoming 100, the kernel's default: a
/// parabola through both ends and the middle in logarithms, as other runtimes convert since 2025.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both ranges are small"
)]
pub(super) fn weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The product is not exact, and 100.0000001 must not become 101.
    ((10_f64.powf(exponent) - 1e-6).ceil() as u64).clamp(1, 10_000)
}

fn apply_io(directory: &Path, block: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        if exists(directory, "io.bfq.weight") {
            write(directory, "io.bfq.weight", &weight.to_string())?;
        } else {
            let weight = 1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990;
            write_if_there(directory, "io.weight", &weight.to_string())?;
        }
    }
    let throttles = [
        ("rbps", block.throttle_read_bps_device()),
        ("wbps", block.throttle_write_bps_device()),
        ("riops", block.throttle_read_iops_device()),
        ("wiops", block.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            write(directory, "io.max", &line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_ends_and_the_default_of_shares_meet_those_of_weight() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(super::weight(shares), weight, "{shares}");
        }
    }
}
