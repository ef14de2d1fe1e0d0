//! Deaths of the daemon, of a shim and of the keeper: pods run on, and are found again. Needs root.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec, Pod};
use coracle_testkit::node::Role;
use coracle_testkit::wait;
use coracle_tests::Bed;

const PODS: usize = 20;

/// Idle containers, and every fourth one that exits by itself when its file appears.
async fn pods(bed: &Bed, count: usize) -> Result<Vec<(Pod, Container)>> {
    let volume = bed.node().directory().join("volume");
    std::fs::create_dir_all(&volume)?;
    let mut pods = Vec::new();
    for number in 0..count {
        let name = format!("pod-{number}");
        if number % 4 == 0 {
            let script = "until [ -e /volume/go ]; do sleep 0.05; done; echo left; exit 42";
            let spec = ContainerSpec::script(&name, &bed.busybox, script).bind(&volume, "/volume");
            let pod = bed
                .runtime
                .run_pod(coracle_testkit::cri::PodSpec::new(&name))
                .await?;
            let container = pod.run(&spec).await?;
            pods.push((pod, container));
        } else {
            pods.push(bed.idle_pod(&name).await?);
        }
    }
    Ok(pods)
}

fn let_them_go(bed: &Bed) -> Result<()> {
    Ok(std::fs::write(bed.node().directory().join("volume/go"), "")?)
}

async fn check_and_remove(bed: &Bed, pods: &[(Pod, Container)]) -> Result<()> {
    assert_eq!(bed.runtime.list_pods().await?.len(), pods.len());
    assert_eq!(bed.runtime.list_containers().await?.len(), pods.len());
    for (number, (pod, container)) in pods.iter().enumerate() {
        let (pod, container) = (pod.through(&bed.runtime), container.through(&bed.runtime));
        assert_eq!(
            pod.status().await?.state(),
            cri::PodSandboxState::SandboxReady,
            "pod {number}"
        );
        if number % 4 == 0 {
            let status = container.exited().await?;
            assert_eq!(
                (status.exit_code, status.reason.as_str()),
                (42, "Error"),
                "pod {number}"
            );
            container.logged("left").await?;
        } else {
            let output = container.exec(&["echo", "alive"]).await?;
            assert_eq!(
                (output.stdout.as_str(), output.code),
                ("alive\n", 0),
                "pod {number}"
            );
        }
        pod.remove().await.with_context(|| format!("pod {number}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_finds_its_pods_and_their_exits_again() -> Result<()> {
    let mut bed = Bed::make().await?;
    let pods = pods(&bed, PODS).await?;
    bed.daemon.kill9()?;
    // What happens while there is no daemon: some containers exit, and their words are kept.
    let_them_go(&bed)?;
    wait::until("the containers' last words", Duration::from_secs(10), || {
        let left = pods.iter().step_by(4).all(|(_, container)| {
            container
                .log_lines()
                .is_ok_and(|lines| lines.iter().any(|line| line.2 == "left"))
        });
        Ok(left.then_some(()))
    })?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    check_and_remove(&bed, &pods).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_go_leaves_its_pods_running() -> Result<()> {
    let mut bed = Bed::make().await?;
    let pods = pods(&bed, 4).await?;
    bed.daemon.terminate()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let_them_go(&bed)?;
    check_and_remove(&bed, &pods).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_the_middle_of_starts_leaves_nothing_half_made() -> Result<()> {
    let mut bed = Bed::make().await?;
    for round in 0..3_u64 {
        let runtime = bed.runtime.clone();
        let busybox = bed.busybox.clone();
        let starts = tokio::spawn(async move {
            for number in 0.. {
                let Ok(pod) = runtime
                    .run_pod(coracle_testkit::cri::PodSpec::new(&format!("half-{number}")))
                    .await
                else {
                    return;
                };
                if pod.run(&ContainerSpec::idle("main", &busybox)).await.is_err() {
                    return;
                }
            }
        });
        // At another moment each time.
        tokio::time::sleep(Duration::from_millis(40 + 13 * round)).await;
        bed.daemon.kill9()?;
        starts.await?;
        bed.daemon.start_again()?;
        bed.reconnect().await?;
        for pod in bed.runtime.list_pods().await? {
            let request = cri::StopPodSandboxRequest {
                pod_sandbox_id: pod.id.clone(),
            };
            bed.runtime.runtime().stop_pod_sandbox(request).await?;
            let request = cri::RemovePodSandboxRequest {
                pod_sandbox_id: pod.id,
            };
            bed.runtime.runtime().remove_pod_sandbox(request).await?;
        }
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_replaced_and_its_containers_run_on() -> Result<()> {
    let bed = Bed::make().await?;
    let pods = pods(&bed, 5).await?;
    let shims = bed.daemon.processes(Role::Shim)?;
    assert_eq!(shims.len(), 5, "one a pod: {shims:?}");
    for shim in &shims {
        shim.kill()?;
    }
    let_them_go(&bed)?;
    wait::until_async("exec to work again", Duration::from_secs(20), || async {
        Ok(pods[1].1.exec(&["true"]).await.ok())
    })
    .await?;
    check_and_remove(&bed, &pods).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_and_daemon_together_lose_no_exit() -> Result<()> {
    let mut bed = Bed::make().await?;
    let pods = pods(&bed, 5).await?;
    bed.daemon.kill9()?;
    for shim in bed.daemon.processes(Role::Shim)? {
        shim.kill()?;
    }
    let_them_go(&bed)?;
    std::thread::sleep(Duration::from_millis(300));
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    assert_eq!(bed.runtime.list_pods().await?.len(), 5);
    for (number, (pod, container)) in pods.iter().enumerate() {
        let (pod, container) = (pod.through(&bed.runtime), container.through(&bed.runtime));
        if number % 4 == 0 {
            assert_eq!(container.exited().await?.exit_code, 42, "pod {number}");
        } else {
            assert_eq!(container.exec(&["true"]).await?.code, 0, "pod {number}");
        }
        pod.remove().await?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_costs_no_pod() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("books").await?;
    let ledger = bed.node().state().join("pods").join(pod.id()).join("ledger");
    for damage in ["", "[{\"object\":\"sh", "nonsense"] {
        bed.daemon.kill9()?;
        bed.node().write(&ledger, damage)?;
        bed.daemon.start_again()?;
        bed.reconnect().await?;
        assert_eq!(
            container.through(&bed.runtime).exec(&["true"]).await?.code,
            0,
            "{damage:?}"
        );
    }
    pod.through(&bed.runtime).remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_carried_out_by_the_shim_that_took_over() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, _idle) = bed.idle_pod("stubborn").await?;
    let script = "trap '' TERM; while :; do sleep 1; done";
    let container = pod
        .run(&ContainerSpec::script("deaf", &bed.busybox, script))
        .await?;
    let shims = bed.daemon.processes(Role::Shim)?;
    let killing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        shims.iter().try_for_each(|shim| shim.kill())
    });
    container.stop(Duration::from_secs(2)).await?;
    killing.join().expect("the thread does not panic")?;
    assert_eq!(container.exited().await?.exit_code, 137);
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_is_replaced() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("kept").await?;
    for keeper in bed.daemon.processes(Role::Keeper)? {
        keeper.kill()?;
    }
    assert_eq!(container.exec(&["true"]).await?.code, 0, "the shim lives on");
    wait::until_async("another pod to start", Duration::from_secs(20), || async {
        let Ok((pod, _)) = bed.idle_pod("after").await else {
            return Ok(None);
        };
        pod.remove().await?;
        Ok(Some(()))
    })
    .await?;
    pod.remove().await?;
    bed.leave().await
}
