//! The node as a whole, from /proc: the frame in which its pods are to be seen.

use std::fs::read_to_string;

use crate::terminal::{bytes, share};

/// What the whole machine does.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Machine {
    /// Cores that may be used.
    pub(super) cores: usize,
    load: Option<String>,
    memory: Option<(u64, u64)>,
    pressure: [Option<f64>; 3],
}

impl Machine {
    /// As it is now; what cannot be read is not told.
    pub(super) fn look() -> Self {
        let text = |path: &str| read_to_string(path).unwrap_or_default();
        let pressure = |of: &str| some_avg10(&text(&format!("/proc/pressure/{of}")));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load: load(&text("/proc/loadavg")),
            memory: memory(&text("/proc/meminfo")),
            pressure: [pressure("cpu"), pressure("memory"), pressure("io")],
        }
    }

    /// In words, the most important first.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some((used, all)) = self.memory {
            words.push(format!("memory {} of {}", bytes(used), bytes(all)));
        }
        if let Some(load) = &self.load {
            words.push(format!("load {load} on {} cores", self.cores));
        }
        let named = ["cpu", "memory", "io"].into_iter().zip(self.pressure);
        let waits: Vec<_> = named
            .filter_map(|(name, percent)| Some(format!("{name} {}", share(percent?))))
            .collect();
        if !waits.is_empty() {
            words.push(format!("waiting for {}", waits.join(", ")));
        }
        words
    }
}

fn load(text: &str) -> Option<String> {
    let first: Vec<_> = text.split_whitespace().take(3).collect();
    (first.len() == 3).then(|| first.join(" "))
}

fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    let (all, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    Some((all.saturating_sub(available), all))
}

fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = line
        .split_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    field.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let machine = Machine {
            cores: 4,
            load: load("0.42 0.30 0.20 1/200 4711\n"),
            memory: memory("MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n"),
            pressure: [
                some_avg10("some avg10=3.10 avg60=1 avg300=0 total=9\nfull avg10=0\n"),
                some_avg10(""),
                Some(12.0),
            ],
        };
        let words = [
            "memory 1.0MiB of 2.0MiB",
            "load 0.42 0.30 0.20 on 4 cores",
            "waiting for cpu 3.1%, io 12%",
        ];
        assert_eq!(machine.words(), words);
        assert!(Machine::default().words().is_empty());
    }
}
