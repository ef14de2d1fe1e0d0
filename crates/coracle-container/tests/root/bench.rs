//! How long the steps take; printed, never asserted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_container::ExecTree;
use coracle_container::namespace::{Namespace, PinRequest, pin, unpin};

use crate::fixture::{Image, busybox, finish, process, spec, start, stop, try_create, try_exec, wait};

pub(crate) const TESTS: &[super::Test] = &[("root_times_of_create_start_and_exec", times)];

/// The median, and the tenth part that was quickest: what a quiet machine takes.
fn spread(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() / 10])
}

fn times() {
    let image = busybox();
    let pins = tempfile::tempdir().unwrap();
    let kinds = [
        (Namespace::Net, "network"),
        (Namespace::Ipc, "ipc"),
        (Namespace::Uts, "uts"),
    ];
    let at = |name: &str| pins.path().join(name);
    let pins = kinds.iter().map(|(kind, name)| (*kind, at(name))).collect();
    pin(&PinRequest {
        pins,
        ..PinRequest::default()
    })
    .unwrap();
    let mut in_pod = spec(&["true"]);
    in_pod.as_object_mut().unwrap().remove("hostname");
    for (_, name) in kinds {
        for namespace in in_pod["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == name {
                namespace["path"] = serde_json::json!(at(name));
            }
        }
    }
    measure("alone", &image, &spec(&["true"]));
    measure("in a pod", &image, &in_pod);
    for (_, name) in kinds {
        unpin(&at(name)).unwrap();
    }
    execs(&image);
}

fn measure(what: &str, image: &Image, value: &serde_json::Value) {
    let (mut creates, mut starts) = (Vec::new(), Vec::new());
    let mut steps: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(10));
        let mut value = value.clone();
        let path = format!(
            "{}/{}",
            crate::fixture::parent(),
            coracle_types::ContainerId::generate()
        );
        value["linux"]["cgroupsPath"] = serde_json::json!(path);
        let began = Instant::now();
        let mut running = try_create(image, &value).unwrap();
        creates.push(began.elapsed());
        let began = Instant::now();
        running.init.start().unwrap();
        starts.push(began.elapsed());
        for step in running.init.steps() {
            steps
                .entry(step.name)
                .or_default()
                .push(step.took.unwrap_or_default());
        }
        finish(running);
    }
    println!(
        "  {what}: create {:?}, start {:?} (median, p10)",
        spread(creates),
        spread(starts)
    );
    let mut steps: Vec<_> = steps
        .into_iter()
        .map(|(name, times)| (spread(times), name))
        .collect();
    steps.sort();
    for (time, name) in steps.iter().rev().take(12) {
        println!("    {name}: {time:?}");
    }
}

fn execs(image: &Image) {
    let running = start(image, &spec(&["sleep", "1000"]));
    let wanted = process(&running, &["true"]);
    let mut execs = Vec::new();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(10));
        let began = Instant::now();
        let (executed, _output) = try_exec(&running, &wanted, ExecTree::Shared).unwrap();
        execs.push(began.elapsed());
        wait(executed.pidfd());
    }
    println!("  exec {:?}", spread(execs));
    stop(running);
}
