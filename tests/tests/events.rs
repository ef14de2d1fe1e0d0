//! Events as they happen, and operations while they hang. Needs root.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::{admin, cri};
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::node::DaemonOptions;
use coracle_testkit::wait;
use coracle_tests::{Bed, Plan};
use cri::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};
use tonic::{Code, Streaming};

const LIMIT: Duration = Duration::from_secs(20);

async fn follow(bed: &Bed) -> Result<Streaming<cri::ContainerEventResponse>> {
    let answer = bed
        .runtime
        .runtime()
        .get_container_events(cri::GetEventsRequest {})
        .await?;
    Ok(answer.into_inner())
}

async fn next(events: &mut Streaming<cri::ContainerEventResponse>) -> Result<cri::ContainerEventResponse> {
    let event = tokio::time::timeout(wait::patient(LIMIT), events.message()).await;
    event
        .context("waited in vain for an event")??
        .context("the stream ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_follower_hears_a_life_in_its_order_with_statuses() -> Result<()> {
    let bed = Bed::make().await?;
    let mut followers = [follow(&bed).await?, follow(&bed).await?, follow(&bed).await?];
    let pod = bed.runtime.run_pod(PodSpec::new("pod")).await?;
    let container = pod.run(&ContainerSpec::idle("main", &bed.busybox)).await?;
    container.logged("idle").await?;
    container.stop(Duration::from_secs(10)).await?;
    container.remove().await?;
    let running = pod.run(&ContainerSpec::idle("killed", &bed.busybox)).await?;
    pod.stop().await?;
    pod.remove().await?;

    let (p, c, k) = (pod.id(), container.id(), running.id());
    let expected = [
        (p, Created),
        (p, Started),
        (c, Created),
        (c, Started),
        (c, Stopped),
        (c, Deleted),
        (k, Created),
        (k, Started),
        (k, Stopped),
        (p, Stopped),
        (k, Deleted),
        (p, Deleted),
    ];
    for events in &mut followers {
        let mut last = 0;
        for (id, kind) in expected {
            let event = next(events).await?;
            assert_eq!(
                (event.container_id.as_str(), event.container_event_type()),
                (id, kind)
            );
            assert!(event.created_at >= last, "events go back in time");
            last = event.created_at;
            let status = event.pod_sandbox_status.context("no status of the pod")?;
            assert_eq!(status.id, p);
            assert_eq!(status.metadata.context("no metadata")?.name, "pod");
            let of_container = event.containers_statuses.iter().find(|status| status.id == id);
            match (id == p, kind) {
                (true, Stopped | Deleted) => {
                    assert_eq!(status.state, i32::from(cri::PodSandboxState::SandboxNotready));
                }
                (true, _) => assert_eq!(status.state, i32::from(cri::PodSandboxState::SandboxReady)),
                (false, Deleted) => assert!(of_container.is_none(), "it is gone"),
                (false, kind) => {
                    let state = of_container.context("no status of the container")?.state();
                    let wanted = match kind {
                        Created => cri::ContainerState::ContainerCreated,
                        Started => cri::ContainerState::ContainerRunning,
                        _ => cri::ContainerState::ContainerExited,
                    };
                    assert_eq!(state, wanted);
                }
            }
        }
    }
    drop(followers);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_the_daemon_does_not_grow() -> Result<()> {
    let bed = Bed::make().await?;
    let mut lazy = follow(&bed).await?;
    let mut eager = follow(&bed).await?;
    // Large statuses fill the transport's window soon; then the daemon keeps what its ring holds.
    let pod = PodSpec::new("pod").with(|config| {
        config
            .annotations
            .insert("large".to_owned(), "x".repeat(64 << 10));
    });
    let pod = bed.runtime.run_pod(pod).await?;
    let reading = tokio::spawn(async move {
        let mut heard = 0;
        while let Ok(Some(_)) = eager.message().await {
            heard += 1;
        }
        heard
    });
    for _ in 0..600 {
        let container = pod.create(&ContainerSpec::idle("main", &bed.busybox)).await?;
        container.remove().await?;
    }
    let mut heard = 0;
    let error = loop {
        match tokio::time::timeout(LIMIT, lazy.message()).await? {
            Ok(Some(_)) => heard += 1,
            Ok(None) => anyhow::bail!("the stream ended without a word after {heard} events"),
            Err(status) => break status,
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    assert!(error.message().contains("behind"), "{}", error.message());
    assert!(heard < 1202, "it heard all {heard}");
    pod.remove().await?;
    let mut bed = bed;
    // The daemon leaves although somebody follows, and says so.
    bed.daemon.terminate()?;
    assert!(reading.await? >= 1202);
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    bed.leave().await
}

/// A CNI plugin that hangs until a file appears, then fails.
const HANGING: &str = "#!/bin/sh\ncase $CNI_COMMAND in ADD) \
    until [ -e /var/lib/release ]; do sleep 0.05; done; echo '{\"code\":11,\"msg\":\"released\"}'; exit 1;; \
    VERSION) echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}';; esac\nexit 0\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_step_is_seen_with_who_waits_for_it() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let plugins = tempfile::tempdir()?;
    let program = plugins.path().join("hanging");
    std::fs::write(&program, HANGING)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let mut daemon = DaemonOptions::default();
    daemon.cni_bin_dirs.push(plugins.path().to_owned());
    let bed = Bed::planned(Plan {
        daemon,
        subnet: Some("10.90.0.0/16"),
    })
    .await?;
    let usual = std::fs::read(bed.node().path("/etc/cni/net.d/10-pods.conflist"))?;
    let hanging = r#"{"cniVersion":"1.0.0","name":"hanging","plugins":[{"type":"hanging"}]}"#;
    bed.node().write("/etc/cni/net.d/10-pods.conflist", hanging)?;
    let log = bed.node().directory().join("daemon.log");
    wait::until("the new network", LIMIT, || {
        let text = std::fs::read_to_string(&log)?;
        let changed = |line: &str| line.contains("configuration changed") && line.contains("hanging");
        Ok(text.lines().any(changed).then_some(()))
    })?;

    assert!(operations(&bed).await?.is_empty());
    let spec = PodSpec::new("stuck");
    let logs = bed.node().directory().join("logs");
    let request = cri::RunPodSandboxRequest {
        config: Some(spec.config(&logs)),
        runtime_handler: String::new(),
    };
    // Two clients ask for the same pod; one of them soon gives up.
    let patient = {
        let (mut runtime, request) = (bed.runtime.runtime(), request.clone());
        tokio::spawn(async move { runtime.run_pod_sandbox(request).await })
    };
    let with_waiting = |waiting: u32| {
        let bed = &bed;
        wait::until_async("the operation's clients", LIMIT, move || async move {
            let mut found = operations(bed).await?;
            let one = found
                .pop()
                .filter(|one| found.is_empty() && one.waiting == waiting);
            Ok(one.filter(|one| one.steps.iter().any(|step| step.name == "run.network")))
        })
    };
    with_waiting(1).await?;
    let hasty = {
        let mut runtime = bed.runtime.runtime();
        let mut request = tonic::Request::new(request);
        request.set_timeout(wait::patient(Duration::from_secs(3)));
        tokio::spawn(async move { runtime.run_pod_sandbox(request).await })
    };
    let seen = with_waiting(2).await?;
    assert_eq!(
        (seen.kind.as_str(), seen.name.as_str()),
        ("run pod sandbox", "default/stuck")
    );
    let step = &seen.steps[0];
    assert_eq!(
        (step.name.as_str(), step.awaits.as_str()),
        ("run.network", "network plugin")
    );
    assert!(step.age_nanos > 0 && step.age_nanos <= seen.age_nanos && seen.began_at > 0);
    // The daemon's word, or the client's own when its clock is the first.
    let gave_up = hasty.await?.unwrap_err().code();
    assert!(
        matches!(gave_up, Code::DeadlineExceeded | Code::Cancelled),
        "{gave_up:?}"
    );
    let later = with_waiting(1).await?;
    assert!(later.age_nanos > seen.age_nanos && later.id == seen.id);

    // A request that waits for its turn is seen to.
    let stop = {
        let (mut runtime, pod_sandbox_id) = (bed.runtime.runtime(), seen.pod_sandbox_id.clone());
        tokio::spawn(async move {
            runtime
                .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id })
                .await
        })
    };
    let queued = wait::until_async("the stop that waits", LIMIT, || async {
        let found = operations(&bed).await?;
        Ok(found.into_iter().find(|one| one.kind == "stop pod sandbox"))
    })
    .await?;
    assert_eq!((queued.waiting, queued.steps[0].name.as_str()), (1, "queue"));

    std::fs::write(bed.node().path("/var/lib/release"), "")?;
    let error = patient.await?.unwrap_err();
    assert!(error.message().contains("released"), "{}", error.message());
    stop.await??;
    assert!(operations(&bed).await?.is_empty());
    std::fs::remove_file(bed.node().path("/var/lib/release"))?;
    bed.node().write("/etc/cni/net.d/10-pods.conflist", usual)?;
    bed.leave().await
}

async fn operations(bed: &Bed) -> Result<Vec<admin::Operation>> {
    let answer = bed
        .runtime
        .admin()
        .list_operations(admin::ListOperationsRequest {})
        .await?;
    Ok(answer.into_inner().operations)
}
