//! How long the steps take; printed, never asserted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_container::ExecTree;

use crate::fixture::{busybox, finish, process, spec, start, stop, try_create, try_exec, wait};

pub(crate) const TESTS: &[super::Test] = &[("root_times_of_create_start_and_exec", times)];

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn times() {
    let image = busybox();
    let (mut creates, mut starts) = (Vec::new(), Vec::new());
    let mut steps: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(10));
        let began = Instant::now();
        let mut running = try_create(&image, &spec(&["true"])).unwrap();
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
    println!("  create {:?}, start {:?}", median(creates), median(starts));
    let mut steps: Vec<_> = steps
        .into_iter()
        .map(|(name, times)| (median(times), name))
        .collect();
    steps.sort();
    for (time, name) in steps.iter().rev().take(14) {
        println!("    {name}: {time:?}");
    }
    let running = start(&image, &spec(&["sleep", "1000"]));
    let wanted = process(&running, &["true"]);
    let mut execs = Vec::new();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(10));
        let began = Instant::now();
        let (executed, _output) = try_exec(&running, &wanted, ExecTree::Shared).unwrap();
        execs.push(began.elapsed());
        wait(executed.pidfd());
    }
    println!("  exec {:?}", median(execs));
    stop(running);
}
