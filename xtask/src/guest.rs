//! A machine of its own for a command: Debian with systemd, cgroup v2 alone and AppArmor, booted once and
//! resumed for each run, with the program and its tests carried in.
//!
//! Everything lies below `target/guest/`: images (see `image`), and for each run a directory in `runs/`
//! with its throw-away disk, its sockets and the console's log, gone with the run.

mod cargo;
mod image;
pub(crate) mod inside;
mod kernel;
mod machine;
mod packages;
mod payload;
mod qmp;
mod sources;
mod trailer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use image::Image;
use kernel::Kernel;
use machine::{Machine, Parts};

use crate::workspace;

/// Where the guest finds what is carried in.
const CARRIED: &str = "/carried";

/// Set inside, so that tasks do not look for cargo.
const GUEST_VARIABLE: &str = "CORACLE_GUEST";

/// Brings the command past make and its shell as it was written.
const COMMAND_VARIABLE: &str = "CORACLE_GUEST_COMMAND";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Another kernel: `backports`, or the path of a .deb or a bzImage
    #[arg(long)]
    kernel: Option<String>,
    /// Seconds after which the machine is stopped
    #[arg(long, default_value_t = 3600)]
    deadline: u64,
    /// A file or directory to find in /carried/files
    #[arg(long)]
    carry: Vec<PathBuf>,
    /// Without our program: nothing is built for it
    #[arg(long)]
    bare: bool,
    /// Where the run's console and the machine's disk are kept for a look afterwards
    #[arg(long)]
    keep: bool,
    /// A shell's command; `e2e [FOCUS]`, `critest [--focus P]` and `bench` are known inside
    #[arg(env = COMMAND_VARIABLE, default_value = "uname -a; systemctl --no-pager status | head -5")]
    command: String,
}

impl Options {
    /// A command on the usual kernel with these files and without our program.
    pub(crate) fn bare(command: String, carry: Vec<PathBuf>) -> Self {
        Self {
            kernel: None,
            deadline: 3600,
            carry,
            bare: true,
            keep: false,
            command,
        }
    }
}

/// Runs the command in a guest and leaves with its exit code.
pub(crate) fn run(options: &Options) -> Result<()> {
    let cache = workspace().join("target/guest");
    let kernel = Kernel::parse(options.kernel.as_deref())?;
    std::fs::create_dir_all(cache.join("runs"))?;
    sweep(&cache.join("runs"));
    let image = Image::ensure(&cache, &kernel)?;
    let begin = Instant::now();
    let run = Run::new(&cache.join("runs"), options.keep)?;
    let gathered = run.directory.join("carried");
    payload::gather(options, &gathered)?;
    let carried = run.directory.join("carried.raw");
    image::disk(&gathered, &carried, machine::CARRIED_SIZE)?;
    std::fs::remove_dir_all(&gathered)?;
    let disk = run.directory.join("disk.qcow2");
    image::throw_away(&image.disk(), "qcow2", &disk)?;
    let gathering = begin.elapsed();

    let (kernel, initrd) = image.kernel();
    let parts = Parts {
        kernel: &kernel,
        initrd: initrd.as_deref(),
        disk: &disk,
        carried: &carried,
        state: Some(&image.state()),
    };
    let begin = Instant::now();
    let mut machine = Machine::start(&parts, &run.directory, Duration::from_secs(options.deadline))?;
    machine.qmp().resume()?;
    let resuming = begin.elapsed();
    let status = machine.order(&token()?, std::io::stdout().lock())?;
    eprintln(&format!(
        "guest: carried in after {:.1} s, resumed in {:.1} s, ran {:.1} s, exit status {status}",
        gathering.as_secs_f64(),
        resuming.as_secs_f64(),
        (begin.elapsed() - resuming).as_secs_f64(),
    ));
    drop(machine);
    drop(run);
    drop(image);
    std::process::exit(i32::from(status));
}

/// A word that no output holds by chance.
fn token() -> Result<String> {
    let uuid =
        std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot read a random name")?;
    Ok(format!("guest-{}", uuid.trim()))
}

/// Not on standard output, which is the command's.
fn eprintln(text: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}

/// The directory of a run; gone when dropped.
#[derive(Debug)]
struct Run {
    directory: PathBuf,
    keep: bool,
    _lock: File,
}

impl Run {
    fn new(runs: &Path, keep: bool) -> Result<Self> {
        let directory = runs.join(std::process::id().to_string());
        std::fs::create_dir_all(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock()?;
        Ok(Self {
            directory,
            keep,
            _lock: lock,
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.keep {
            eprintln(&format!("guest: kept in {}", self.directory.display()));
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// Takes away what runs left that were killed.
fn sweep(runs: &Path) {
    for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        let lock = File::open(entry.path().join("lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_swept_and_what_runs_is_not() {
        let runs = tempfile::tempdir().unwrap();
        let running = Run::new(runs.path(), false).unwrap();
        let left = runs.path().join("1");
        std::fs::create_dir(&left).unwrap();
        File::create(left.join("lock")).unwrap();
        sweep(runs.path());
        assert!(!left.exists() && running.directory.exists());
        let directory = running.directory.clone();
        drop(running);
        assert!(!directory.exists());
    }
}
