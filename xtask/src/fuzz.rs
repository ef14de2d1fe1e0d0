//! Fuzzing: arbitrary bytes for each parser of what images hold, for a moment or for as long as one likes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, workspace};

/// As `fuzz/src/main.rs` has them.
const TARGETS: [&str; 6] = ["reference", "manifest", "config", "policy", "tar", "whiteout"];

/// How long each target runs when nothing is said, also in `make test`.
const SECONDS: u32 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// One target; all when left out
    #[arg(long, value_parser = TARGETS)]
    target: Option<String>,
    /// How long each runs, in seconds
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
}

/// All targets for a moment each.
pub(crate) fn short() -> Result<()> {
    run(&Options {
        target: None,
        seconds: SECONDS,
    })
}

/// Runs one target or all, as many at a time as there are processors.
pub(crate) fn run(options: &Options) -> Result<()> {
    let program = build()?;
    let targets: Vec<&str> = match &options.target {
        Some(target) => vec![target],
        None => TARGETS.to_vec(),
    };
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let at_a_time = std::thread::available_parallelism()?.get().min(targets.len());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = fuzz(&program, target, options.seconds);
                    let mut outcomes = outcomes.lock().expect("nothing panics with it");
                    outcomes.push((*target, outcome));
                }
            });
        }
    });
    let mut failed = Vec::new();
    for (target, outcome) in outcomes.into_inner().expect("nothing panics with it") {
        match outcome {
            Ok(counts) => println!("{target:<12} {counts}"),
            Err(error) => {
                println!("{target:<12} {error:#}");
                failed.push(target);
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "fuzzing found something in {}",
        failed.join(", ")
    );
    Ok(())
}

/// Builds the targets with coverage of the workspace's own crates; the others are shared with all builds.
fn build() -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--package", "coracle-fuzz", "--locked"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", workspace().join("fuzz/rustc.sh"));
    build::run(&mut command)?;
    let debug = Path::new(build::RELEASE).with_file_name("debug");
    Ok(workspace().join(debug).join("coracle-fuzz"))
}

/// What was found is kept in `target/fuzz`, so that the next run goes on from there.
fn fuzz(program: &Path, target: &str, seconds: u32) -> Result<String> {
    let kept = workspace().join("target/fuzz");
    let found = kept.join(target);
    std::fs::create_dir_all(&found)?;
    // In memory: a target unpacks thousands of layers a second.
    let place = tempfile::Builder::new()
        .prefix("coracle-fuzz-")
        .tempdir_in("/dev/shm")?;
    let output = Command::new(program)
        .current_dir(place.path())
        .env("CORACLE_FUZZ_TARGET", target)
        .env("CORACLE_FUZZ_DIRECTORY", place.path())
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", kept.display()))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536"])
        .args(["-use_value_profile=1", "-print_final_stats=1"])
        .arg(&found)
        .arg(workspace().join("fuzz/corpus").join(target))
        .output()
        .context("cannot run the fuzzer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        bail!("{}: the input is in {}\n{end}", output.status, kept.display());
    }
    let stat = |name: &str| {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
        line.unwrap_or("?").trim().to_owned()
    };
    let coverage = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    Ok(format!(
        "{} inputs, {} a second, {} places reached, {} MB",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        coverage.unwrap_or("?"),
        stat("peak_rss_mb"),
    ))
}
