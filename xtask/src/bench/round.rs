//! One pod from start to removal, each operation timed; and what standing pods cost in memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_proto::cri::NamespaceMode;
use coracle_testkit::cri::{ContainerSpec, Pod, PodSpec};
use coracle_testkit::measure::{machine_busy, pss};

use super::contestant::{Contestant, IMAGE};

/// Whose PID namespace a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PidMode {
    /// Its own: what the kubelet asks for.
    Container,
    /// The pod's: CRI's zero value.
    Pod,
}

/// What was measured of one runtime in one mode.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Milliseconds, by operation.
    pub(super) times: BTreeMap<&'static str, Vec<f64>>,
    /// Processor time of the machine over all starts.
    busy: Duration,
}

impl Samples {
    fn add(&mut self, operation: &'static str, begin: Instant) -> Instant {
        self.times
            .entry(operation)
            .or_default()
            .push(begin.elapsed().as_secs_f64() * 1000.0);
        Instant::now()
    }

    /// Milliseconds; the kernel counts in steps of 10 ms, so only the mean over many says something.
    pub(super) fn cpu_a_start(&self) -> f64 {
        let starts = self.times.get("start").map_or(1, Vec::len).max(1);
        self.busy.as_secs_f64() * 1000.0 / starts as f64
    }
}

fn pod_spec(contestant: &Contestant, mode: PidMode) -> PodSpec {
    let parent = contestant.cgroup_parent();
    let spec = PodSpec::new("bench").linux(|linux| linux.cgroup_parent = parent);
    if mode == PidMode::Pod {
        spec.shared_pids()
    } else {
        spec
    }
}

fn container_spec(mode: PidMode) -> ContainerSpec {
    let pid = if mode == PidMode::Pod {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    ContainerSpec::idle("idle", IMAGE)
        .security(|security| security.namespace_options.get_or_insert_default().pid = pid.into())
}

/// Starts a pod, runs `true` in it, takes it away; idle before each.
pub(super) async fn once(
    contestant: &Contestant,
    mode: PidMode,
    pause: Duration,
    samples: &mut Samples,
) -> Result<()> {
    let spec = container_spec(mode);
    tokio::time::sleep(pause).await;
    let busy = machine_busy()?;
    let begin = Instant::now();
    let pod = contestant
        .runtime
        .run_pod(pod_spec(contestant, mode))
        .await
        .context("RunPodSandbox")?;
    let next = samples.add("run_pod", begin);
    let container = pod.create(&spec).await.context("CreateContainer")?;
    let next = samples.add("create", next);
    container.start().await.context("StartContainer")?;
    samples.add("start_container", next);
    samples.add("start", begin);
    samples.busy += machine_busy()?.saturating_sub(busy);

    tokio::time::sleep(pause).await;
    let begin = Instant::now();
    let output = container.exec(&["true"]).await.context("ExecSync")?;
    samples.add("exec", begin);
    ensure!(output.code == 0, "true gave {output:?}");

    tokio::time::sleep(pause).await;
    let begin = Instant::now();
    pod.remove()
        .await
        .context("StopPodSandbox and RemovePodSandbox")?;
    samples.add("stop_remove", begin);
    Ok(())
}

/// KiB of PSS that a standing pod adds to all processes of the node, its own program left out.
pub(super) async fn pod_memory(contestant: &Contestant, mode: PidMode, count: usize) -> Result<f64> {
    let before = memory(contestant)?;
    let mut pods: Vec<Pod> = Vec::new();
    for _ in 0..count {
        let pod = contestant.runtime.run_pod(pod_spec(contestant, mode)).await?;
        pod.run(&container_spec(mode)).await?;
        pods.push(pod);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = memory(contestant)?;
    for pod in pods {
        pod.remove().await?;
    }
    Ok((after - before) / count as f64)
}

fn memory(contestant: &Contestant) -> Result<f64> {
    let mut sum = 0.0;
    for process in contestant.node.processes()? {
        // What runs in the pods is the same for every runtime.
        if !matches!(process.name.as_str(), "sh" | "sleep" | "busybox") {
            // A process that left since is no more.
            sum += pss(&process.directory).unwrap_or_default() as f64 / 1024.0;
        }
    }
    Ok(sum)
}
