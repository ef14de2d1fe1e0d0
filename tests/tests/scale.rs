//! Many pods, one after the other and at once: nothing is left, and memory does not grow. Needs root.
//!
//! `make soak` runs more: 1,000 pods and ten rounds.

use std::path::Path;

use anyhow::{Context, Result};
use coracle_testkit::measure::{anonymous_rss, rss};
use coracle_testkit::node::Role;
use coracle_tests::{Bed, count};

/// How much the daemon and the keeper may grow between an early pod and the last, in bytes of their own. Pages of the
/// program's file come with the first use of each part of it, which has an end.
const GROWTH: u64 = 1 << 20;

/// Bytes of memory of a process, anonymous and in all.
type Memory = (Role, u64, u64);

fn memory(bed: &Bed) -> Result<Vec<Memory>> {
    let of = |role, process: &Path| -> Result<Memory> { Ok((role, anonymous_rss(process)?, rss(process)?)) };
    let mut found = vec![of(Role::Daemon, &bed.daemon.proc()?)?];
    for keeper in bed.daemon.processes(Role::Keeper)? {
        found.push(of(Role::Keeper, &keeper.directory)?);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_one_after_the_other_leave_nothing_and_memory_stays() -> Result<()> {
    let bed = Bed::make().await?;
    let last = count(200, 1000);
    // Until then allocators and threads take what they keep.
    let early = last / 4;
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
    println!("own and resident bytes after pod {early}: {begin:?}; after pod {last}: {end:?}");
    assert_eq!((begin.len(), end.len()), (2, 2), "one daemon, one keeper");
    for ((role, before, _), (_, after, _)) in begin.into_iter().zip(end) {
        assert!(
            after <= before + GROWTH,
            "{role:?} grew from {before} to {after} bytes of its own"
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
