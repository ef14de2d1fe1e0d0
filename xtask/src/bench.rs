//! Measurements beside containerd and runc, in one run: pods, and pulls.

use std::path::PathBuf;

use anyhow::{Context, Result};
use coracle_testkit::node::by_systemd;
use serde_json::{Value, json};

use crate::{build, runtime, setup, workspace};

mod contestant;
mod equal;
mod pods;
mod pull;
mod round;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(long, value_enum, default_value_t = Part::Pods)]
    part: Part,
    /// Pods a runtime and PID mode (100 when left out), or pulls a runtime and image (5)
    #[arg(long)]
    count: Option<usize>,
    /// Idle time between two operations on pods, in milliseconds
    #[arg(long, default_value_t = 30)]
    pause_ms: u64,
    /// Leave the other runtimes out
    #[arg(long)]
    alone: bool,
    /// Where the numbers go; pods.json or pull.json in docs/benchmarks when left out
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Pods start, exec and stop
    Pods,
    /// Images are pulled and removed
    Pull,
    /// Trees of images are compared, with nothing measured
    Equal,
}

/// Measures, prints a table and writes the numbers.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run()?;
    build::release()?;
    match options.part {
        Part::Pods => runtime()?.block_on(pods::measure(options)),
        Part::Pull => runtime()?.block_on(pull::measure(options)),
        Part::Equal => runtime()?.block_on(pull::compare(options)),
    }
}

/// Writes a report with the place and time it was taken.
fn write(options: &Options, name: &str, mut report: Value) -> Result<()> {
    report["measured"] = json!(first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
    report["kernel"] = json!(first_line("uname", &["-r"]));
    report["cgroup_driver"] = json!(if by_systemd() { "systemd" } else { "cgroupfs" });
    report["processors"] = json!(std::thread::available_parallelism()?.get());
    let path = match &options.json {
        Some(path) => workspace().join(path),
        None => workspace().join("docs/benchmarks").join(name),
    };
    std::fs::create_dir_all(path.parent().context("the report needs a directory")?)?;
    std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("\nwritten: {}", path.display());
    Ok(())
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_default()
}
