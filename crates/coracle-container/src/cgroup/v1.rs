//! Limits in the files of cgroup version 1.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::files::{exists, read_number, write, write_if_there};
use super::hierarchy::Hierarchy;
use crate::error::Error;

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
            write(
                directory,
                &format!("hugetlb.{size}.limit_in_bytes"),
                &limit.limit().to_string(),
            )?;
            write_if_there(
                directory,
                &format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                &limit.limit().to_string(),
            )?;
        }
    }
    if hierarchy.controls("blkio")
        && let Some(block) = resources.block_io()
    {
        apply_block_io(directory, block)?;
    }
    if let Some(network) = resources.network() {
        if hierarchy.controls("net_cls")
            && let Some(class) = network.class_id()
        {
            write(directory, "net_cls.classid", &class.to_string())?;
        }
        if hierarchy.controls("net_prio") {
            for priority in network.priorities().iter().flatten() {
                let line = format!("{} {}", priority.name(), priority.priority());
                write(directory, "net_prio.ifpriomap", &line)?;
            }
        }
    }
    Ok(())
}

fn apply_memory(directory: &Path, memory: &LinuxMemory) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let both = memory.swap().filter(|swap| *swap != 0);
    let swap_file = "memory.memsw.limit_in_bytes";
    let swap_counted = exists(directory, swap_file);
    let write_limit = || match limit {
        Some(limit) => write(directory, "memory.limit_in_bytes", &limit.to_string()),
        None => Ok(()),
    };
    let write_both = || match both {
        Some(both) if swap_counted => write(directory, swap_file, &both.to_string()),
        _ => Ok(()),
    };
    // The kernel keeps memory <= memory and swap at every instant, so growing begins with the outer limit.
    let grows = swap_counted
        && both.is_some_and(|both| {
            both < 0 || read_number(directory, swap_file).is_ok_and(|now| both.cast_unsigned() > now)
        });
    if grows {
        write_both()?;
        write_limit()?;
    } else {
        write_limit()?;
        write_both()?;
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        write(directory, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness() {
        write(directory, "memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write(directory, "memory.oom_control", "1")?;
    }
    Ok(())
}

fn apply_cpu(directory: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        write(directory, "cpu.shares", &shares.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write_if_there(directory, "cpu.idle", &idle.to_string())?;
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        // A quota longer than the new period would be refused; lift it before when both change.
        if cpu.quota().is_some_and(|quota| quota != 0) {
            write(directory, "cpu.cfs_quota_us", "-1")?;
        }
        write(directory, "cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        write(directory, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(burst) = cpu.burst() {
        write_if_there(directory, "cpu.cfs_burst_us", &burst.to_string())?;
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        write(directory, "cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        write(directory, "cpu.rt_runtime_us", &runtime.to_string())?;
    }
    Ok(())
}

fn apply_block_io(directory: &Path, block: &LinuxBlockIo) -> Result<(), Error> {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        let file = ["blkio.weight", "blkio.bfq.weight"]
            .into_iter()
            .find(|file| exists(directory, file));
        write(directory, file.unwrap_or("blkio.weight"), &weight.to_string())?;
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
        (
            "blkio.throttle.write_bps_device",
            block.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            block.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            block.throttle_write_iops_device(),
        ),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            write(directory, file, &throttle(device))?;
        }
    }
    Ok(())
}

fn throttle(device: &LinuxThrottleDevice) -> String {
    format!("{}:{} {}", device.major(), device.minor(), device.rate())
}

/// A new cpuset of version 1 is empty, and nothing can run in it: it takes what its parent has.
pub(super) fn fill_cpuset(directory: &Path) -> Result<(), Error> {
    let Some(parent) = directory.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let now = super::files::read(directory, file)?;
        if now.trim().is_empty() {
            let from = super::files::read(parent, file)?;
            write(directory, file, from.trim())?;
        }
    }
    Ok(())
}
