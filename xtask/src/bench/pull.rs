//! How fast images come and go, what that costs, and how near it is to decoding alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_testkit::image::Image;
use coracle_testkit::image::bulk::Bulk;
use coracle_testkit::measure::{
    disk_usage, forget_peak, machine_busy, peak_rss, percentile, processor_time, rss,
};
use serde_json::{Value, json};

use super::contestant::{Contestant, HOST};
use super::{Options, equal, number, text};
use crate::{build, workspace};

/// The measured images: one large layer, and several.
const IMAGES: [(&str, Bulk); 2] = [
    (
        "one-layer",
        Bulk {
            layers: 1,
            files: 13_000,
            bytes: 170 << 20,
        },
    ),
    (
        "five-layers",
        Bulk {
            layers: 5,
            files: 43_000,
            bytes: 690 << 20,
        },
    ),
];

/// Layers at a time: the default of both runtimes.
const PARALLEL: usize = 3;
/// How often decoding alone is measured; the best counts.
const LIMIT_RUNS: usize = 5;
/// What may be left of an image in databases and logs.
const SLACK: u64 = 2 << 20;
const REMOVAL: Duration = Duration::from_secs(60);

/// One pull and the removal after it.
struct Sample {
    pull: f64,
    remove: f64,
    busy: f64,
    daemon: f64,
    idle: u64,
    peak: u64,
    disk: u64,
}

/// Only compares the trees that the contestants make.
pub(super) async fn compare(options: &Options) -> Result<()> {
    equal::check(&Contestant::all(options.alone).await?).await
}

/// Measures, prints a table and writes the numbers.
pub(super) async fn measure(options: &Options) -> Result<()> {
    let count = options.count.unwrap_or(5);
    let contestants = Contestant::all(options.alone).await?;
    let program = decode_limit()?;
    let (mut images, mut results) = (Vec::new(), Vec::new());
    for (name, bulk) in IMAGES {
        println!("{name}: {} files in {} layers ...", bulk.files, bulk.layers);
        let image = bulk.image();
        for contestant in &contestants {
            contestant.registry.push(&image, name, "1").await?;
        }
        let blobs = contestants[0].node.directory().join(name);
        let limit = limit(&program, &image, &blobs)?;
        images.push(json!({ "name": name, "files": bulk.files, "layers": bulk.layers,
            "packed": limit["packed"], "unpacked": limit["unpacked"],
            "decode_limit": limit["seconds"] }));
        drop(image);
        let mut samples: Vec<Vec<Sample>> = contestants.iter().map(|_| Vec::new()).collect();
        // The first round warms caches and is not counted.
        for round in 0..=count {
            for (contestant, samples) in contestants.iter().zip(&mut samples) {
                let sample = once(contestant, &format!("{HOST}/{name}:1")).await?;
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        let decode = number(&limit, "seconds");
        for (contestant, samples) in contestants.iter().zip(&samples) {
            results.push(result(&contestant.name, name, samples, decode));
        }
    }
    table(&results);
    let report = json!({
        "count": count,
        "unit": "s; bytes",
        "images": images,
        "results": results,
    });
    super::write(options, "pull.json", report)?;
    // Last, so that images of which runtimes differ do not cost the numbers.
    equal::check(&contestants).await
}

/// Pulls and removes, with everything written out before each.
async fn once(contestant: &Contestant, reference: &str) -> Result<Sample> {
    let (daemon, storage) = (contestant.daemon()?, contestant.storage());
    write_all_out()?;
    let before = disk_usage(&storage);
    forget_peak(&daemon)?;
    let idle = rss(&daemon)?;
    let (busy, own) = (machine_busy()?, processor_time(&daemon)?);
    let begin = Instant::now();
    let pulled = contestant.runtime.pull(reference).await;
    pulled.with_context(|| format!("{}: {}", contestant.name, contestant.log_end()))?;
    let pull = begin.elapsed().as_secs_f64();
    let busy = machine_busy()?.saturating_sub(busy).as_secs_f64();
    let own = processor_time(&daemon)?.saturating_sub(own).as_secs_f64();
    let peak = peak_rss(&daemon)?;
    let disk = disk_usage(&storage).saturating_sub(before);

    write_all_out()?;
    let begin = Instant::now();
    contestant.runtime.remove_image(reference).await?;
    // Free is what the disk says, not what the answer says.
    while disk_usage(&storage) > before + SLACK {
        ensure!(
            begin.elapsed() < REMOVAL,
            "{}: the space does not come back",
            contestant.name
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Sample {
        pull,
        remove: begin.elapsed().as_secs_f64(),
        busy,
        daemon: own,
        idle,
        peak,
        disk,
    })
}

/// What others wrote before shall not be written out in our time.
fn write_all_out() -> Result<()> {
    build::run(&mut Command::new("sync"))
}

fn result(runtime: &str, image: &str, samples: &[Sample], limit: f64) -> Value {
    let spread = |value: fn(&Sample) -> f64| {
        let values: Vec<f64> = samples.iter().map(value).collect();
        json!({ "p50": percentile(&values, 0.5), "min": percentile(&values, 0.0), "max": percentile(&values, 1.0) })
    };
    let pull = spread(|sample| sample.pull);
    let share = limit / number(&pull, "p50");
    let peak = samples.iter().map(|sample| sample.peak).max();
    let above = samples
        .iter()
        .map(|sample| sample.peak.saturating_sub(sample.idle))
        .max();
    json!({
        "runtime": runtime,
        "image": image,
        "pull": pull,
        "remove": spread(|sample| sample.remove),
        "cpu_machine": spread(|sample| sample.busy),
        "cpu_daemon": spread(|sample| sample.daemon),
        "peak_rss": peak,
        "peak_above_idle": above,
        "disk": samples.last().map(|sample| sample.disk),
        "share_of_decode_limit": share,
    })
}

/// Builds the program that only decodes, from the crates and with the profile of the release program.
fn decode_limit() -> Result<PathBuf> {
    build::cargo(&["build", "--release", "--package", "coracle-bench"])?;
    Ok(workspace().join(build::RELEASE).join("decode_limit"))
}

/// The best of some runs over the image's layers.
fn limit(program: &Path, image: &Image, directory: &Path) -> Result<Value> {
    std::fs::create_dir_all(directory)?;
    let mut files = Vec::new();
    let layers = image
        .blobs()
        .iter()
        .filter(|blob| blob.media_type.contains("layer"));
    for (number, blob) in layers.enumerate() {
        let file = directory.join(number.to_string());
        std::fs::write(&file, &blob.content)?;
        files.push(file);
    }
    let mut best: Option<Value> = None;
    for _ in 0..LIMIT_RUNS {
        let output = Command::new(program)
            .arg(PARALLEL.to_string())
            .args(&files)
            .output()?;
        ensure!(
            output.status.success(),
            "decode_limit: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let run: Value = serde_json::from_slice(&output.stdout)?;
        if best
            .as_ref()
            .is_none_or(|best| number(&run, "seconds") < number(best, "seconds"))
        {
            best = Some(run);
        }
    }
    std::fs::remove_dir_all(directory)?;
    best.context("decoding was not measured")
}

fn table(results: &[Value]) {
    println!(
        "\n{:<26} {:<12} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "runtime", "image", "pull s", "min", "max", "remove s", "CPU s", "daemon s", "peak MB", "limit %"
    );
    for result in results {
        println!(
            "{:<26} {:<12} {:>8.2} {:>8.2} {:>8.2} {:>9.3} {:>9.2} {:>9.2} {:>8.0} {:>8.0}",
            text(result, "runtime"),
            text(result, "image"),
            number(&result["pull"], "p50"),
            number(&result["pull"], "min"),
            number(&result["pull"], "max"),
            number(&result["remove"], "p50"),
            number(&result["cpu_machine"], "p50"),
            number(&result["cpu_daemon"], "p50"),
            number(result, "peak_above_idle") / 1e6,
            number(result, "share_of_decode_limit") * 100.0,
        );
    }
    for (name, _) in IMAGES {
        let times: Vec<f64> = results
            .iter()
            .filter(|result| text(result, "image") == name)
            .map(|result| number(&result["pull"], "p50"))
            .collect();
        if let [ours, theirs, ..] = times[..] {
            println!("{name}: {:.1} times faster at p50", theirs / ours);
        }
    }
}
