//! Many pods, one after the other and at once: nothing is left, and memory does not grow. Needs root.
//!
//! `make soak` runs more: 1,000 pods and ten rounds.

use anyhow::{Context, Result};
use coracle_testkit::measure::rss;
use coracle_testkit::node::Role;
use coracle_tests::{Bed, count};

/// How much the daemon and the keeper may grow between an early pod and the last.
const GROWTH: u64 = 1 << 20;

fn memory(bed: &Bed) -> Result<Vec<(Role, u64)>> {
    let mut found = vec![(Role::Daemon, rss(&bed.daemon.proc()?)?)];
    for keeper in bed.daemon.processes(Role::Keeper)? {
        found.push((Role::Keeper, rss(&keeper.directory)?));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_one_after_the_other_leave_nothing_and_memory_stays() -> Result<()> {
    let bed = Bed::make().await?;
    let (early, last) = (20, count(200, 1000));
    let mut begin = Vec::new();
    for number in 1..=last {
        let (pod, container) = bed
            .idle_pod(&format!("pod-{number}"))
            .await
            .with_context(|| format!("pod {number}"))?;
        assert_eq!(container.exec(&["true"]).await?.code, 0);
        pod.remove().await.with_context(|| format!("pod {number}"))?;
        if number == early {
            begin = memory(&bed)?;
        }
    }
    let end = memory(&bed)?;
    println!("resident bytes after pod {early}: {begin:?}; after pod {last}: {end:?}");
    assert_eq!((begin.len(), end.len()), (2, 2), "one daemon, one keeper");
    for ((role, before), (_, after)) in begin.into_iter().zip(end) {
        assert!(
            after <= before + GROWTH,
            "{role:?} grew from {before} to {after} bytes"
        );
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_at_once_all_start_and_leave_nothing() -> Result<()> {
    let bed = Bed::make().await?;
    for round in 0..count(2, 10) {
        let starts = (0..30).map(|number| {
            let (runtime, busybox) = (bed.runtime.clone(), bed.busybox.clone());
            tokio::spawn(async move {
                let name = format!("pod-{round}-{number}");
                let pod = runtime.run_pod(coracle_testkit::cri::PodSpec::new(&name)).await?;
                let container = pod
                    .run(&coracle_testkit::cri::ContainerSpec::idle(&name, &busybox))
                    .await?;
                let ip = pod.ip().await?;
                assert_eq!(container.exec(&["true"]).await?.code, 0);
                anyhow::Ok((pod, ip))
            })
        });
        let mut pods = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            pods.push(start.await??);
        }
        let mut ips: Vec<_> = pods.iter().map(|(_, ip)| ip.clone()).collect();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), 30, "no address is given twice");
        let removals = pods
            .into_iter()
            .map(|(pod, _)| tokio::spawn(async move { pod.remove().await }));
        for removal in removals.collect::<Vec<_>>() {
            removal.await??;
        }
    }
    bed.leave().await
}
