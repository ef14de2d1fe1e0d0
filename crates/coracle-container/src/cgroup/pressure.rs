//! Pressure stall information (PSI): how long tasks of a cgroup waited for cpu, memory and io.

use std::path::Path;

use super::files::read;
use super::{Cgroup, hierarchy};

/// Time lost to one resource, and its running averages.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Since the cgroup was made, in microseconds.
    pub total_micros: u64,
    /// Share of the last 10 seconds, in percent.
    pub avg10: f64,
    /// Share of the last minute, in percent.
    pub avg60: f64,
    /// Share of the last five minutes, in percent.
    pub avg300: f64,
}

/// Pressure of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks waited at once; cpu has it per cgroup since Linux 5.13, before that it reads as 0.
    pub full: Stall,
}

/// Pressure of a cgroup; `None` where the kernel tells none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// Waiting to run.
    pub cpu: Option<Pressure>,
    /// Waiting for memory to be freed or read back.
    pub memory: Option<Pressure>,
    /// Waiting for devices.
    pub io: Option<Pressure>,
}

impl Cgroup {
    /// Pressure here and below. Only the v2 hierarchy tells it, alone or beside v1 ones, and only in a kernel
    /// with CONFIG_PSI that was not booted with `psi=0`; a cgroup that is gone has none.
    #[must_use]
    pub fn pressures(&self) -> Pressures {
        let Some(directory) = self.v2_directory() else {
            return Pressures::default();
        };
        Pressures {
            cpu: of_file(&directory, "cpu.pressure"),
            memory: of_file(&directory, "memory.pressure"),
            io: of_file(&directory, "io.pressure"),
        }
    }
}

/// Whether cgroups of this node tell their pressure.
#[must_use]
pub fn tells_pressure() -> bool {
    let has_v2 = hierarchy::of_node().is_ok_and(|all| all.iter().any(hierarchy::Hierarchy::is_v2));
    has_v2 && Path::new("/proc/pressure/cpu").exists()
}

fn of_file(directory: &Path, file: &str) -> Option<Pressure> {
    parse(&read(directory, file).ok()?)
}

/// Documentation/accounting/psi.rst: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then `full`.
fn parse(text: &str) -> Option<Pressure> {
    let mut pressure = None;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next()?;
        let mut stall = Stall::default();
        for word in words {
            match word.split_once('=')? {
                ("avg10", value) => stall.avg10 = value.parse().ok()?,
                ("avg60", value) => stall.avg60 = value.parse().ok()?,
                ("avg300", value) => stall.avg300 = value.parse().ok()?,
                ("total", value) => stall.total_micros = value.parse().ok()?,
                _ => {}
            }
        }
        let found: &mut Pressure = pressure.get_or_insert_default();
        match kind {
            "some" => found.some = stall,
            "full" => found.full = stall,
            _ => {}
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_and_a_missing_one_is_zero() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=2.00 total=7\n";
        let pressure = parse(text).unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.total_micros), (1.5, 123));
        assert_eq!((pressure.full.avg300, pressure.full.total_micros), (2.0, 7));
        let old = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n").unwrap();
        assert_eq!((old.some.total_micros, old.full), (9, Stall::default()));
    }

    #[test]
    fn what_is_no_pressure_is_none() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("some avg10"), None);
        assert_eq!(parse("some total=x"), None);
    }
}
