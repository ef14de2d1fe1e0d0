//! Numbers about processes and the machine: memory, processor time, percentiles.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of /proc/stat: 1/100 s on every architecture that this program is built for.
const USER_HZ: f64 = 100.0;

/// Resident memory of a process in bytes, given its /proc directory.
///
/// # Errors
/// When the process is gone.
pub fn rss(process: &Path) -> Result<u64> {
    kilobytes(&process.join("status"), "VmRSS:")
}

/// A process's share of memory in bytes, pages shared by n processes counted as 1/n (PSS).
///
/// # Errors
/// When the process is gone.
pub fn pss(process: &Path) -> Result<u64> {
    kilobytes(&process.join("smaps_rollup"), "Pss:")
}

fn kilobytes(path: &Path, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse::<u64>().ok());
    number
        .map(|kilobytes| kilobytes * 1024)
        .with_context(|| format!("{} has no {field}", path.display()))
}

/// Processor time that the whole machine has spent since boot, all processors summed, idle and
/// waiting left out.
///
/// # Errors
/// When /proc/stat is not as proc(5) says.
pub fn machine_busy() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .context("/proc/stat has no sum")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is contained in user's.
    let busy: u64 = ticks
        .iter()
        .take(7)
        .enumerate()
        .filter(|(n, _)| *n != 3 && *n != 4)
        .map(|(_, t)| t)
        .sum();
    Ok(Duration::from_secs_f64(busy as f64 / USER_HZ))
}

/// The value below which `share` (0 to 1) of the samples lie, by nearest rank; 0 without samples.
#[must_use]
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), 50.0);
        assert_eq!(percentile(&samples, 0.99), 99.0);
        assert_eq!(percentile(&samples, 1.0), 100.0);
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let own = Path::new("/proc/self");
        assert!(rss(own).unwrap() > 100_000);
        assert!(pss(own).unwrap() > 0);
        assert!(machine_busy().unwrap() > Duration::ZERO);
    }
}
