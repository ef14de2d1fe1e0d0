//! Pods and containers from their start to their end, as the kubelet sees them. Needs root.

use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::node::by_systemd;
use coracle_tests::Bed;
use coracle_tests::checks::{holds, refused};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_says_who_it_is_and_what_it_cannot_do_yet() -> Result<()> {
    let bed = Bed::make().await?;
    let mut runtime = bed.runtime.runtime();
    let version = runtime
        .version(cri::VersionRequest { version: "v1".into() })
        .await?
        .into_inner();
    assert_eq!(
        (
            version.runtime_name.as_str(),
            version.runtime_api_version.as_str()
        ),
        ("coracle", "v1")
    );
    assert!(
        !version.version.is_empty() && !version.runtime_version.is_empty(),
        "{version:?}"
    );
    let config = runtime
        .runtime_config(cri::RuntimeConfigRequest {})
        .await?
        .into_inner();
    let driver = if by_systemd() {
        cri::CgroupDriver::Systemd
    } else {
        cri::CgroupDriver::Cgroupfs
    };
    assert_eq!(config.linux.unwrap_or_default().cgroup_driver(), driver);
    let status = runtime
        .status(cri::StatusRequest { verbose: true })
        .await?
        .into_inner();
    assert!(
        status
            .runtime_handlers
            .iter()
            .any(|handler| handler.name.is_empty()),
        "{status:?}"
    );

    let request = cri::CheckpointContainerRequest {
        container_id: "0".repeat(64),
        ..Default::default()
    };
    let words = refused(
        "CheckpointContainer",
        runtime.checkpoint_container(request).await,
        &[Code::Unimplemented],
    );
    holds(&words, &["CheckpointContainer"]);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_and_its_container_pass_through_their_states() -> Result<()> {
    let bed = Bed::make().await?;
    let spec = PodSpec::new("states").with(|config| {
        config.labels.insert("app".into(), "web".into());
        config.annotations.insert("note".into(), "kept as it is".into());
    });
    let pod = bed.runtime.run_pod(spec).await?;
    let status = pod.status().await?;
    assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(
        (&status.labels["app"], &status.annotations["note"]),
        (&"web".into(), &"kept as it is".into())
    );
    assert!(status.created_at > 0 && pod.id().len() == 64);
    assert!(status.network.unwrap_or_default().ip.starts_with("10.90."));

    let container = pod.create(&ContainerSpec::idle("main", &bed.busybox)).await?;
    assert_eq!(
        container.status().await?.state(),
        cri::ContainerState::ContainerCreated
    );
    container.start().await?;
    container.logged("idle").await?;
    let status = container.status().await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(
        status.started_at >= status.created_at && status.finished_at == 0,
        "{status:?}"
    );
    let image = bed.runtime.image(&bed.busybox).await?.unwrap_or_default();
    assert_eq!(
        (&status.image_id, status.image_ref.is_empty()),
        (&image.id, false)
    );
    refused(
        "a second start",
        container.start().await,
        &[Code::FailedPrecondition, Code::Unknown],
    );

    container.stop(Duration::from_secs(10)).await?;
    let status = container.exited().await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(status.finished_at >= status.started_at);
    refused(
        "a start after the end",
        container.start().await,
        &[Code::FailedPrecondition, Code::Unknown],
    );

    pod.stop().await?;
    assert_eq!(pod.status().await?.state(), cri::PodSandboxState::SandboxNotready);
    let late = pod.create(&ContainerSpec::idle("late", &bed.busybox)).await;
    refused(
        "a container in a stopped pod",
        late.map(|_| ()),
        &[Code::FailedPrecondition, Code::Unknown],
    );
    pod.remove().await?;
    refused("status of a removed pod", pod.status().await, &[Code::NotFound]);
    refused(
        "status of a removed container",
        container.status().await,
        &[Code::NotFound],
    );
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_reasons_are_told() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("ends")).await?;
    for (name, script, code, reason) in [
        ("well", "exit 0", 0, "Completed"),
        ("badly", "exit 7", 7, "Error"),
        ("terminated", "kill -TERM $$; sleep 5", 143, "Error"),
    ] {
        // A shell as PID 1 ignores what it has no handler for, so the victim is its child.
        let script = if name == "terminated" {
            format!("sh -c '{script}'; exit $?")
        } else {
            script.to_owned()
        };
        let container = pod
            .run(&ContainerSpec::script(name, &bed.busybox, &script))
            .await?;
        let status = container.exited().await?;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (code, reason),
            "{name}: {status:?}"
        );
    }
    // Killed from outside, as PID 1 cannot kill itself.
    let idle = pod
        .run(&ContainerSpec::new("stubborn", &bed.busybox, &["sleep", "1000"]))
        .await?;
    idle.stop(Duration::from_secs(1)).await?;
    assert_eq!(idle.exited().await?.exit_code, 137);

    let hungry = ContainerSpec::script("hungry", &bed.busybox, "tail /dev/zero")
        .resources(|resources| resources.memory_limit_in_bytes = 16 << 20);
    let status = pod.run(&hungry).await?.exited().await?;
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_cannot_run_are_named() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("no-program")).await?;
    for (name, command) in [
        ("missing", "/no/such/program"),
        ("directory", "/etc"),
        ("plain", "/etc/passwd"),
    ] {
        let created = pod
            .create(&ContainerSpec::new(name, &bed.busybox, &[command]))
            .await;
        let answer = match created {
            Ok(container) => container.start().await,
            Err(status) => Err(status),
        };
        let codes = [
            Code::InvalidArgument,
            Code::NotFound,
            Code::FailedPrecondition,
            Code::PermissionDenied,
            Code::Unknown,
        ];
        holds(&refused(name, answer, &codes), &[command]);
    }
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_the_program_and_no_longer_than_asked() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("stops")).await?;
    let polite = "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.1; done";
    let container = pod
        .run(&ContainerSpec::script("polite", &bed.busybox, polite))
        .await?;
    container.logged("up").await?;
    container.stop(Duration::from_secs(30)).await?;
    assert_eq!(container.exited().await?.exit_code, 5);
    container.logged("asked").await?;

    let deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    let container = pod
        .run(&ContainerSpec::script("deaf", &bed.busybox, deaf))
        .await?;
    container.logged("up").await?;
    container.stop(Duration::ZERO).await?;
    assert_eq!(container.exited().await?.exit_code, 137);

    // The signal of the image or of the request, not always TERM.
    let interrupt = "trap 'exit 9' INT; trap '' TERM; echo up; while :; do sleep 0.1; done";
    let spec = ContainerSpec::script("interrupted", &bed.busybox, interrupt)
        .with(|config| config.stop_signal = cri::Signal::Sigint.into());
    let container = pod.run(&spec).await?;
    container.logged("up").await?;
    container.stop(Duration::from_secs(30)).await?;
    assert_eq!(container.exited().await?.exit_code, 9);
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_may_be_repeated() -> Result<()> {
    let bed = Bed::make().await?;
    let spec = PodSpec::new("again");
    let (one, two) = tokio::join!(
        bed.runtime.run_pod(spec.clone()),
        bed.runtime.run_pod(spec.clone())
    );
    let (one, two) = (one?, two?);
    assert_eq!(one.id(), two.id(), "a retry joins the call that is under way");

    let container = one.run(&ContainerSpec::idle("main", &bed.busybox)).await?;
    for _ in 0..2 {
        container.stop(Duration::ZERO).await?;
    }
    for _ in 0..2 {
        container.remove().await?;
    }
    for _ in 0..2 {
        one.stop().await?;
    }
    for _ in 0..2 {
        one.remove().await?;
    }
    let mut runtime = bed.runtime.runtime();
    let unknown = "f".repeat(64);
    runtime
        .stop_pod_sandbox(cri::StopPodSandboxRequest {
            pod_sandbox_id: unknown.clone(),
        })
        .await?;
    runtime
        .remove_pod_sandbox(cri::RemovePodSandboxRequest {
            pod_sandbox_id: unknown.clone(),
        })
        .await?;
    runtime
        .stop_container(cri::StopContainerRequest {
            container_id: unknown.clone(),
            timeout: 0,
        })
        .await?;
    runtime
        .remove_container(cri::RemoveContainerRequest {
            container_id: unknown,
        })
        .await?;
    bed.runtime.remove_image("registry.test/none:1").await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_by_all_that_is_asked() -> Result<()> {
    let bed = Bed::make().await?;
    let mut pods = Vec::new();
    for (name, app) in [("one", "web"), ("two", "web"), ("three", "db")] {
        let spec = PodSpec::new(name).with(|config| {
            config.labels.insert("app".into(), app.into());
        });
        let pod = bed.runtime.run_pod(spec).await?;
        pod.create(&ContainerSpec::idle(name, &bed.busybox).with(|config| {
            config.labels.insert("app".into(), app.into());
        }))
        .await?;
        pods.push(pod);
    }
    let mut runtime = bed.runtime.runtime();
    let web = [("app".to_owned(), "web".to_owned())];
    let filter = |id: &str| cri::PodSandboxFilter {
        id: id.to_owned(),
        label_selector: web.clone().into_iter().collect(),
        ..Default::default()
    };
    for (id, count) in [("", 2), (pods[0].id(), 1), (pods[2].id(), 0)] {
        let request = cri::ListPodSandboxRequest {
            filter: Some(filter(id)),
        };
        assert_eq!(
            runtime.list_pod_sandbox(request).await?.into_inner().items.len(),
            count,
            "{id}"
        );
    }
    let filter = cri::ContainerFilter {
        state: Some(cri::ContainerStateValue {
            state: cri::ContainerState::ContainerCreated.into(),
        }),
        pod_sandbox_id: pods[1].id().to_owned(),
        ..Default::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    assert_eq!(
        runtime
            .list_containers(request)
            .await?
            .into_inner()
            .containers
            .len(),
        1
    );
    for pod in pods {
        pod.remove().await?;
    }
    bed.leave().await
}
