//! The wall clock set forward and back while pods run, as an administrator or a first NTP answer does.

use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::clock;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::node::Role;
use coracle_tests::Bed;
use tonic::Code;

use crate::{refused, works};

const HOUR: i64 = 3600;

fn set_clocks(bed: &Bed, by: i64) -> Result<()> {
    for role in [Role::Daemon, Role::Keeper, Role::Shim] {
        for process in bed.daemon.processes(role)? {
            clock::move_by(&process.directory, by)?;
        }
    }
    Ok(())
}

/// What the daemon says the time is, against what it is, in hours.
async fn told(bed: &Bed, pod: &str) -> Result<i64> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: false,
    };
    let answer = bed.runtime.runtime().pod_sandbox_status(request).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seconds = answer.into_inner().timestamp / 1_000_000_000 - i64::try_from(now.as_secs())?;
    Ok((seconds + HOUR / 2).div_euclid(HOUR))
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps() -> Result<()> {
    let mut bed = Bed::make().await?;
    let script = "trap 'exit 7' TERM; while :; do echo tick; sleep 0.05; done";
    let pod = bed.runtime.run_pod(PodSpec::new("clock")).await?;
    let container = pod
        .run(&ContainerSpec::script("clock", &bed.busybox, script))
        .await?;
    for hours in [26, -50, 0] {
        set_clocks(&bed, hours * HOUR)?;
        // Else this is no test: the daemon goes by the other time.
        assert_eq!(told(&bed, pod.id()).await?, hours);
        container.logged("tick").await?;
        assert_eq!(container.exec(&["true"]).await?.code, 0);
        // Deadlines are not by the wall clock.
        let late = container
            .exec_for(&["sleep", "1000"], Duration::from_secs(1))
            .await;
        refused("clock jumped: exec's deadline", late, Code::DeadlineExceeded, &[]);
        let stats = cri::ContainerStatsRequest {
            container_id: container.id().to_owned(),
        };
        bed.runtime.runtime().container_stats(stats).await?;

        // A container that lives across a jump back ends after it began.
        let other = bed.runtime.run_pod(PodSpec::new("other")).await?;
        let short = other
            .run(&ContainerSpec::script(
                "short",
                &bed.busybox,
                "read _ < /dev/zero; sleep 1000",
            ))
            .await?;
        set_clocks(&bed, (hours - 5) * HOUR)?;
        short.stop(Duration::ZERO).await?;
        let status = short.exited().await?;
        assert!(status.created_at <= status.started_at, "{status:?}");
        assert!(status.started_at <= status.finished_at, "{status:?}");
        other.remove().await?;
        set_clocks(&bed, hours * HOUR)?;
    }
    works(
        "clock jumps forward and back",
        "deadlines hold, no container ends before it began",
    );

    // A daemon that is started at another time than its shims.
    set_clocks(&bed, -50 * HOUR)?;
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let (pod, container) = (pod.through(&bed.runtime), container.through(&bed.runtime));
    assert_eq!(told(&bed, pod.id()).await?, 0);
    container.stop(Duration::from_secs(20)).await?;
    let status = container.exited().await?;
    assert_eq!(status.exit_code, 7);
    assert!(status.started_at <= status.finished_at, "{status:?}");
    // Lines are whole and in their order, whatever their stamps.
    let lines = container.log_lines()?;
    assert!(lines.iter().all(|line| line.2 == "tick"), "{lines:?}");
    pod.remove().await?;
    bed.leave().await
}
