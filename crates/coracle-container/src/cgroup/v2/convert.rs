//! From the specification's resources to files and what is written to them: no system call, so that it can be
//! tried with any numbers.

use std::collections::BTreeMap;
use std::path::Path;

use coracle_types::cgroup2::{Limit, cpu_weight, io_weight, swap_limit};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::cgroup::files::read_number;
use crate::cgroup::{page_size, pids_limit};
use crate::error::Error;

/// One file and what it shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
    pub(super) missing: Missing,
}

/// What it means that the file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// What was asked would not hold.
    Fails,
    /// It holds without the file: nothing could use what the limit is on.
    Harmless,
}

/// A cgroup's files as they are.
pub(super) trait Present {
    fn read(&self, file: &str) -> Option<String>;
    fn has(&self, file: &str) -> bool;
}

/// In the order of writing. Entries of `unified` are last, and what they name is not written twice: they are what
/// the client means, a converted number is what we make of it.
pub(super) fn settings(
    resources: &LinuxResources,
    offers: &dyn Fn(&str) -> bool,
    now: &dyn Present,
) -> Result<Vec<Setting>, Error> {
    let mut all = Settings(Vec::new());
    if let Some(memory) = resources.memory() {
        refuse_what_v2_lacks(memory)?;
        if offers("memory") {
            all.memory(memory, now)?;
        }
    }
    if let Some(cpu) = resources.cpu() {
        all.processors(cpu, offers, now)?;
    }
    if offers("pids")
        && let Some(limit) = pids_limit(resources)
    {
        all.must("pids.max", limit);
    }
    if offers("hugetlb") {
        for limit in resources.hugepage_limits().iter().flatten() {
            let size = page_size(limit.page_size())?;
            let bytes = Limit::of(limit.limit()).unwrap_or(Limit::At(0));
            // A page size of the request may be one that this machine does not have.
            let missing = if bytes == Limit::At(0) {
                Missing::Harmless
            } else {
                Missing::Fails
            };
            all.push(format!("hugetlb.{size}.max"), bytes, missing);
            // Reservations count apart since Linux 5.7: without a limit on them a process may reserve what it is
            // killed for touching.
            all.push(format!("hugetlb.{size}.rsvd.max"), bytes, Missing::Harmless);
        }
    }
    if offers("io")
        && let Some(block) = resources.block_io()
    {
        all.io(block, now);
    }
    let unified: BTreeMap<&String, &String> = resources.unified().iter().flatten().collect();
    for (file, value) in unified {
        check_unified(file, value)?;
        all.0.retain(|setting| setting.file != *file);
        // The kernel takes a device a write.
        for line in value.split('\n').filter(|line| !line.is_empty()) {
            all.must(file.clone(), line);
        }
    }
    Ok(all.0)
}

struct Settings(Vec<Setting>);

impl Settings {
    fn push(&mut self, file: impl Into<String>, value: impl ToString, missing: Missing) {
        self.0.push(Setting {
            file: file.into(),
            value: value.to_string(),
            missing,
        });
    }

    fn must(&mut self, file: impl Into<String>, value: impl ToString) {
        self.push(file, value, Missing::Fails);
    }

    fn memory(&mut self, memory: &LinuxMemory, now: &dyn Present) -> Result<(), Error> {
        let limit = memory.limit().and_then(Limit::of);
        let holds = limit.or_else(|| Limit::parse(&now.read("memory.max")?));
        // Of a limit that stands nothing follows for swap.
        let of = if memory.swap().is_none_or(|both| both == 0) {
            limit
        } else {
            holds
        };
        let swap = swap_limit(of, memory.swap()).map_err(|error| {
            let both = memory.swap().unwrap_or_default();
            Error::spec("linux.resources.memory.swap", both.to_string(), error.to_string())
        })?;
        if let Some(swap) = swap {
            // Without the file swap is not counted, or there is none.
            self.push("memory.swap.max", swap, Missing::Harmless);
        }
        if let Some(limit) = limit {
            self.must("memory.max", limit);
        }
        if let Some(reservation) = memory.reservation().and_then(Limit::of) {
            self.must("memory.low", reservation);
        }
        Ok(())
    }

    fn processors(
        &mut self,
        cpu: &LinuxCpu,
        offers: &dyn Fn(&str) -> bool,
        now: &dyn Present,
    ) -> Result<(), Error> {
        let realtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
        if let Some(runtime) = realtime {
            return Err(Error::unsupported(
                "linux.resources.cpu.realtimeRuntime",
                runtime.to_string(),
                "cgroup v2 has no limit on realtime; leave it out",
            ));
        }
        if offers("cpu") {
            self.cpu(cpu, now);
        }
        if offers("cpuset") {
            for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
                // An empty one is its parent's.
                if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                    self.must(file, value);
                }
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu, now: &dyn Present) {
        if let Some(idle) = cpu.idle() {
            // Since Linux 5.15.
            self.push("cpu.idle", idle, Missing::Harmless);
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
            && cpu.idle() != Some(1)
        {
            self.must("cpu.weight", cpu_weight(shares));
        }
        let (quota, period) = (
            cpu.quota().and_then(Limit::of),
            cpu.period().filter(|period| *period != 0),
        );
        let burst = cpu.burst();
        if burst.is_some() && quota.is_some() {
            // A burst above the new quota would have that refused.
            self.push("cpu.max.burst", 0, Missing::Harmless);
        }
        if quota.is_some() || period.is_some() {
            let quota = quota.map_or_else(
                || {
                    let stands = now.read("cpu.max").unwrap_or_default();
                    stands.split_ascii_whitespace().next().unwrap_or("max").to_owned()
                },
                |quota| quota.to_string(),
            );
            self.must(
                "cpu.max",
                period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}")),
            );
        }
        if let Some(burst) = burst {
            // Since Linux 5.14; one that was asked for and is not there is not a limit that fails to hold.
            self.push("cpu.max.burst", burst, Missing::Harmless);
        }
    }

    fn io(&mut self, block: &LinuxBlockIo, now: &dyn Present) {
        // The bfq scheduler takes 1..1000 as version 1 did; io.weight is read by the cost model alone.
        let bfq = now.has("io.bfq.weight");
        let (file, convert): (&str, fn(u16) -> u64) = if bfq {
            ("io.bfq.weight", u64::from)
        } else {
            ("io.weight", io_weight)
        };
        if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
            self.push(file, convert(weight), Missing::Harmless);
        }
        for device in block.weight_device().iter().flatten() {
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                let line = format!("{}:{} {}", device.major(), device.minor(), convert(weight));
                self.push(file, line, Missing::Harmless);
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
                // As on version 1, 0 lifts the limit.
                let rate = match device.rate() {
                    0 => Limit::None,
                    rate => Limit::At(rate),
                };
                self.must(
                    "io.max",
                    format!("{}:{} {key}={rate}", device.major(), device.minor()),
                );
            }
        }
    }
}

fn refuse_what_v2_lacks(memory: &LinuxMemory) -> Result<(), Error> {
    if let Some(swappiness) = memory.swappiness() {
        return Err(Error::unsupported(
            "linux.resources.memory.swappiness",
            swappiness.to_string(),
            "cgroup v2 has none a cgroup; set vm.swappiness for the node, or limit swap",
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::unsupported(
            "linux.resources.memory.disableOOMKiller",
            "true",
            "cgroup v2 cannot stop the killer; use memory.high by `unified` to slow the container down instead",
        ));
    }
    Ok(())
}

/// A file of a controller in the very cgroup, and one line for it.
fn check_unified(file: &str, value: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_';
    let named = file
        .split_once('.')
        .is_some_and(|(controller, rest)| !controller.is_empty() && !rest.is_empty());
    if !named
        || file.len() > 64
        || !file.bytes().all(plain)
        || file.contains("..")
        || file.starts_with("cgroup.")
    {
        return Err(Error::spec(
            "linux.resources.unified",
            file,
            "give the name of a controller's file, as memory.high",
        ));
    }
    if value.len() > 4096 || value.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Error::spec(
            "linux.resources.unified",
            value,
            "give lines of text",
        ));
    }
    Ok(())
}

/// Refuses a memory limit below what is used where the specification asks for that; version 2 would take it and
/// kill until it holds.
pub(super) fn check_before_update(directory: &Path, resources: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = resources
        .memory()
        .as_ref()
        .filter(|memory| memory.check_before_update() == Some(true))
    else {
        return Ok(());
    };
    let Some(Limit::At(limit)) = memory.limit().and_then(Limit::of) else {
        return Ok(());
    };
    let used = read_number(directory, "memory.current")?;
    if used <= limit {
        return Ok(());
    }
    Err(Error::spec(
        "linux.resources.memory.limit",
        limit.to_string(),
        format!("{used} bytes are in use and checkBeforeUpdate is set: give more than that"),
    ))
}

#[cfg(test)]
mod tests;
