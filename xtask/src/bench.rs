//! How fast pods start, stop and exec, and what they cost; beside containerd and runc, in one run.
//!
//! Between two operations lies an idle gap: back to back runs hide the waits of RCU that a node meets.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{build, runtime, setup, workspace};

mod contestant;
mod round;

use contestant::Contestant;
use round::{PidMode, Samples};

/// How many pods stand at once when their memory is counted.
const PODS_FOR_MEMORY: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pods a runtime and PID mode
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Idle time between two operations, in milliseconds
    #[arg(long, default_value_t = 30)]
    pause_ms: u64,
    /// Leave the other runtimes out
    #[arg(long)]
    alone: bool,
    /// Where the numbers go
    #[arg(long, default_value = "docs/benchmarks/pods.json")]
    json: PathBuf,
}

/// Measures, prints a table and writes the numbers.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run()?;
    build::release()?;
    runtime()?.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<()> {
    let mut contestants = vec![Contestant::coracle().await?];
    if options.alone {
        println!("Alone, as asked.");
    } else {
        match Contestant::containerd().await {
            Ok(contestant) => contestants.push(contestant),
            Err(error) => println!("Without containerd: {error:#}"),
        }
    }
    let pause = Duration::from_millis(options.pause_ms);
    let mut results = Vec::new();
    for mode in [PidMode::Container, PidMode::Pod] {
        println!("{} pods a runtime, PID mode {mode:?} ...", options.count);
        let mut samples: Vec<Samples> = contestants.iter().map(|_| Samples::default()).collect();
        // Warm files and caches, not counted.
        for contestant in &contestants {
            for _ in 0..5 {
                round::once(contestant, mode, pause, &mut Samples::default()).await?;
            }
        }
        for _ in 0..options.count {
            for (contestant, samples) in contestants.iter().zip(&mut samples) {
                round::once(contestant, mode, pause, samples).await?;
            }
        }
        for (contestant, samples) in contestants.iter().zip(&samples) {
            let memory = round::pod_memory(contestant, mode, PODS_FOR_MEMORY).await?;
            results.push(contestant.result(mode, samples, memory)?);
        }
    }
    table(&results);
    let report = json!({
        "measured": first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "kernel": first_line("uname", &["-r"]),
        "processors": std::thread::available_parallelism()?.get(),
        "count": options.count,
        "pause_ms": options.pause_ms,
        "unit": "ms; memory in KiB",
        "results": results,
    });
    let path = workspace().join(&options.json);
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

fn table(results: &[Value]) {
    println!(
        "\n{:<26} {:<10} {:<16} {:>9} {:>9} {:>9}",
        "runtime", "PID mode", "operation", "p50 ms", "p90 ms", "p99 ms"
    );
    for result in results {
        let (name, mode) = (text(result, "runtime"), text(result, "pid_mode"));
        for operation in [
            "start",
            "run_pod",
            "create",
            "start_container",
            "exec",
            "stop_remove",
        ] {
            let part = &result["times"][operation];
            println!(
                "{name:<26} {mode:<10} {operation:<16} {:>9.2} {:>9.2} {:>9.2}",
                number(part, "p50"),
                number(part, "p90"),
                number(part, "p99")
            );
        }
        println!(
            "{name:<26} {mode:<10} processor time of the machine a start {:.1} ms; memory a pod {:.0} KiB (PSS); daemon {:.0} KiB (RSS)",
            number(result, "cpu_a_start"),
            number(result, "pss_a_pod"),
            number(result, "daemon_rss")
        );
    }
    for mode in ["Container", "Pod"] {
        let start = |index: usize| {
            let fitting = results.iter().filter(|result| text(result, "pid_mode") == mode);
            fitting
                .map(|result| number(&result["times"]["start"], "p50"))
                .nth(index)
        };
        if let (Some(ours), Some(theirs)) = (start(0), start(1)) {
            println!("PID mode {mode}: {:.1} times faster at p50", theirs / ours);
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_default()
}
