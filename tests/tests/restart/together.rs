//! Keeper, shim and daemon killed together, two of them or all three.

use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec, PodSpec};
use coracle_testkit::node::{Process, Role};
use coracle_tests::Bed;

use crate::{after_restart, answers, kill, nothing_found, row};

/// The end of a container whose parents died together is told by nobody: the kernel keeps the code from 6.15
/// on, else it is lost in words.
async fn ended_with(container: &Container, code: i32) -> Result<()> {
    let status = container.exited().await?;
    match status.exit_code {
        255 => assert_eq!(status.reason, "Unknown", "{}", status.message),
        other => assert_eq!(other, code, "{}", status.message),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeper_and_shim_killed() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("both")).await?;
    let quiet = ContainerSpec::script("quiet", &bed.busybox, "exec sleep 100000");
    let container = pod.run(&quiet).await?;
    let (keepers, shims) = (
        bed.daemon.processes(Role::Keeper)?,
        bed.daemon.processes(Role::Shim)?,
    );
    keepers.iter().chain(&shims).try_for_each(Process::kill)?;
    answers(&container).await?;
    // Its end is told by nobody's child: the kernel keeps the code from 6.15 on, else it is lost in words.
    container.stop(Duration::from_secs(0)).await?;
    let status = container.exited().await?;
    match status.exit_code {
        137 => {}
        255 => assert_eq!(status.reason, "Unknown", "{}", status.message),
        other => panic!("exit code {other}: {}", status.message),
    }
    pod.stop().await?;
    nothing_found(&bed)?;
    row(
        "keeper and shim killed",
        "all, output is lost",
        "ready, running; then the exit code (kernel 6.15) or 255 `Unknown`",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_killed_with_shim_keeper_or_both() -> Result<()> {
    let mut bed = Bed::make().await?;
    for (fault, roles) in [
        ("daemon and shim killed", &[Role::Shim][..]),
        ("daemon and keeper killed", &[Role::Keeper][..]),
    ] {
        let (pod, container) = bed.idle_pod("pair").await?;
        bed.daemon.kill9()?;
        roles.iter().try_for_each(|role| kill(&bed, *role))?;
        let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
        answers(&container).await?;
        nothing_found(&bed)?;
        row(fault, "all", "ready, running", "nothing");
        pod.remove().await?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keeper_and_shim_killed_under_a_container_that_writes() -> Result<()> {
    let bed = Bed::make().await?;
    let script = "while :; do echo line; sleep 0.05; done";
    let script = ContainerSpec::script("writes", &bed.busybox, script);
    let pod = bed.runtime.run_pod(PodSpec::new("writes")).await?;
    let first = pod.run(&script).await?;
    // The first process of a PID namespace is spared what it does not ask for; one behind the pod's init is not.
    let sharing = bed.runtime.run_pod(PodSpec::new("sharing").shared_pids()).await?;
    let shared = script.clone().security(|security| {
        security.namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Pod.into();
    });
    let second = sharing.run(&shared).await?;
    first.logged("line").await?;
    second.logged("line").await?;
    let (keepers, shims) = (
        bed.daemon.processes(Role::Keeper)?,
        bed.daemon.processes(Role::Shim)?,
    );
    keepers.iter().chain(&shims).try_for_each(Process::kill)?;
    // The last reader of its output died: SIGPIPE.
    ended_with(&second, 141).await?;
    answers(&first).await?;
    // The pods are none the worse: another container runs in them, and is heard.
    let next = script.with(|config| config.log_path = "next.log".into());
    let next = next.with(|config| config.metadata.get_or_insert_default().name = "next".into());
    pod.run(&next).await?.logged("line").await?;
    nothing_found(&bed)?;
    row(
        "keeper and shim killed under a container that writes",
        "a container with a PID namespace of its own, its output is lost; SIGPIPE ends one that shares the pod's",
        "ready, running; exited, 141 (kernel 6.15) or 255 `Unknown`",
        "nothing",
    );
    sharing.remove().await?;
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_keeper_and_shim_killed() -> Result<()> {
    let mut bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("all")).await?;
    let quiet = ContainerSpec::script("quiet", &bed.busybox, "exec sleep 100000");
    let container = pod.run(&quiet).await?;
    bed.daemon.kill9()?;
    let both = [Role::Keeper, Role::Shim].map(|role| bed.daemon.processes(role));
    for processes in both {
        processes?.iter().try_for_each(Process::kill)?;
    }
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    answers(&container).await?;
    nothing_found(&bed)?;
    container.stop(Duration::ZERO).await?;
    ended_with(&container, 137).await?;
    row(
        "daemon, keeper and shim killed",
        "all, output is lost",
        "ready, running; then the exit code (kernel 6.15) or 255 `Unknown`",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}
