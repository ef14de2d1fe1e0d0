//! Numbers about processes, the machine and the disk: memory, processor time, space, percentiles.

use std::os::unix::fs::MetadataExt;
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

/// Resident memory of a process in bytes that is its own: without pages of files, which the kernel reads as they are
/// first used and drops when it needs them.
///
/// # Errors
/// When the process is gone.
pub fn anonymous_rss(process: &Path) -> Result<u64> {
    kilobytes(&process.join("status"), "RssAnon:")
}

/// A process's share of memory in bytes, pages shared by n processes counted as 1/n (PSS).
///
/// # Errors
/// When the process is gone.
pub fn pss(process: &Path) -> Result<u64> {
    kilobytes(&process.join("smaps_rollup"), "Pss:")
}

/// Forgets the highest resident memory that a process had (clear_refs in proc_pid_clear_refs(5)).
///
/// # Errors
/// When the process is gone.
pub fn forget_peak(process: &Path) -> Result<()> {
    let path = process.join("clear_refs");
    std::fs::write(&path, "5").with_context(|| format!("cannot write {}", path.display()))
}

/// The highest resident memory in bytes that a process had since [`forget_peak`].
///
/// # Errors
/// When the process is gone.
pub fn peak_rss(process: &Path) -> Result<u64> {
    kilobytes(&process.join("status"), "VmHWM:")
}

/// Processor time that a process has spent with all its threads.
///
/// # Errors
/// When the process is gone.
pub fn processor_time(process: &Path) -> Result<Duration> {
    let path = process.join("stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th field after it.
    let (_, fields) = text.rsplit_once(')').context("a stat file without a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map_while(|word| word.parse::<u64>().ok()).sum::<u64>();
    Ok(Duration::from_secs_f64(ticks as f64 / USER_HZ))
}

/// Bytes that a directory takes of the disk with all below it, as du(1) counts but with each name of a
/// file counted. What vanishes meanwhile is not counted.
#[must_use]
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(about) = std::fs::symlink_metadata(path) else {
        return 0;
    };
    let below = if about.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| disk_usage(&entry.path())).sum()
    } else {
        0
    };
    about.blocks() * 512 + below
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
        assert!(processor_time(own).unwrap() <= machine_busy().unwrap());
    }

    #[test]
    fn a_peak_is_seen_and_forgotten() {
        let own = Path::new("/proc/self");
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        let high = peak_rss(own).unwrap();
        forget_peak(own).unwrap();
        assert!(peak_rss(own).unwrap() + (32 << 20) < high);
    }

    #[test]
    fn what_a_directory_takes_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let before = disk_usage(directory.path());
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/file"), vec![1; 1 << 20]).unwrap();
        let more = disk_usage(directory.path()) - before;
        assert!((1 << 20..2 << 20).contains(&more), "{more}");
    }
}
