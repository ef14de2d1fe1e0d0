//! How fast pods start, stop and exec, and what they cost.
//!
//! Between two operations lies an idle gap: back to back runs hide the waits of RCU that a node meets.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::contestant::Contestant;
use super::round::{self, PidMode, Samples};
use super::{Options, number, text};

/// How many pods stand at once when their memory is counted.
const PODS_FOR_MEMORY: usize = 10;

/// Measures, prints a table and writes the numbers.
pub(super) async fn measure(options: &Options) -> Result<()> {
    let contestants = Contestant::all(options.alone).await?;
    let count = options.count.unwrap_or(100);
    let pause = Duration::from_millis(options.pause_ms);
    let mut results = Vec::new();
    for mode in [PidMode::Container, PidMode::Pod] {
        println!("{count} pods a runtime, PID mode {mode:?} ...");
        let mut samples: Vec<Samples> = contestants.iter().map(|_| Samples::default()).collect();
        // Warm files and caches, not counted.
        for contestant in &contestants {
            for _ in 0..5 {
                round::once(contestant, mode, pause, &mut Samples::default()).await?;
            }
        }
        for _ in 0..count {
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
        "count": count,
        "pause_ms": options.pause_ms,
        "unit": "ms; memory in KiB",
        "results": results,
    });
    super::write(options, "pods.json", report)
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
