//! What pods and containers use, as CRI tells it, against what they really do. Needs root.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::census::cgroup::{hierarchies, of_instance};
use coracle_testkit::cri::{Container, ContainerSpec, Pod, PodSpec};
use coracle_testkit::measure::{percentile, rss};
use coracle_testkit::node::by_systemd;
use coracle_testkit::wait;
use coracle_tests::checks::refused;
use coracle_tests::{Bed, count};
use tonic::Code;

const MIB: u64 = 1 << 20;

async fn stats(bed: &Bed, container: &Container) -> Result<cri::ContainerStats> {
    let request = cri::ContainerStatsRequest {
        container_id: container.id().to_owned(),
    };
    let answer = bed.runtime.runtime().container_stats(request).await?;
    answer.into_inner().stats.context("an answer without stats")
}

async fn list(bed: &Bed, filter: Option<cri::ContainerStatsFilter>) -> Result<Vec<cri::ContainerStats>> {
    let request = cri::ListContainerStatsRequest { filter };
    let answer = bed.runtime.runtime().list_container_stats(request).await?;
    Ok(answer.into_inner().stats)
}

async fn pod_stats(bed: &Bed, pod: &Pod) -> Result<cri::LinuxPodSandboxStats> {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.id().to_owned(),
    };
    let answer = bed.runtime.runtime().pod_sandbox_stats(request).await?;
    let stats = answer.into_inner().stats.context("an answer without stats")?;
    stats.linux.context("stats without Linux")
}

fn value(number: Option<cri::UInt64Value>) -> u64 {
    number.map_or(0, |number| number.value)
}

fn id(stats: &cri::ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| &attributes.id)
}

/// Where the kubelet would put the pod of that name.
fn pod_cgroup(bed: &Bed, name: &str) -> String {
    let parent = bed.node().cgroup_parent();
    if by_systemd() {
        format!("{parent}/{}-kubepods-{name}.slice", bed.node().instance())
    } else {
        format!("{parent}/{name}")
    }
}

/// A pod with a cgroup of its own below the node's, as the kubelet has them.
fn with_cgroup(bed: &Bed, name: &str) -> PodSpec {
    let parent = pod_cgroup(bed, name);
    PodSpec::new(name).linux(|linux| linux.cgroup_parent = parent)
}

/// Takes the pod's cgroup away, and the one of all pods: they are the kubelet's, so the runtime leaves them.
fn remove_cgroup(bed: &Bed, name: &str) -> Result<()> {
    for cgroup in [pod_cgroup(bed, name), bed.node().cgroup_parent()] {
        if by_systemd() {
            let slice = cgroup.rsplit('/').next().unwrap_or_default();
            bed.node().run("systemctl", &["stop", slice])?;
            continue;
        }
        for hierarchy in hierarchies()? {
            let directory = hierarchy.join(cgroup.trim_start_matches('/'));
            if directory.exists() {
                std::fs::remove_dir(&directory).with_context(|| directory.display().to_string())?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_follow_what_a_container_does() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(with_cgroup(&bed, "busy")).await?;
    let script = "dd if=/dev/zero of=/dev/shm/held bs=1M count=24 2>/dev/null; \
        dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null; mkdir /many; \
        for n in $(seq 20); do : > /many/$n; done; echo idle; while :; do :; done";
    let spec = ContainerSpec::script("busy", &bed.busybox, script)
        .resources(|resources| resources.memory_limit_in_bytes = 256 << 20);
    let container = pod.run(&spec).await?;
    container.logged("idle").await?;

    let first = stats(&bed, &container).await?;
    assert_eq!(id(&first), container.id());
    let limit = Duration::from_secs(20);
    let last = wait::until_async("two rates and a count of the layer", limit, || async {
        let now = stats(&bed, &container).await?;
        let cpu = now.cpu.context("no cpu")?;
        let counted = now
            .writable_layer
            .as_ref()
            .map_or(0, |layer| value(layer.used_bytes));
        let ready = value(cpu.usage_nano_cores) > 50_000_000 && counted >= 3 * MIB;
        Ok(ready.then_some(now))
    })
    .await?;

    let (cpu, memory) = (last.cpu.context("no cpu")?, last.memory.context("no memory")?);
    assert!(cpu.timestamp > 0 && memory.timestamp > 0);
    assert!(value(cpu.usage_core_nano_seconds) > value(first.cpu.context("no cpu")?.usage_core_nano_seconds));
    let (usage, working_set) = (value(memory.usage_bytes), value(memory.working_set_bytes));
    assert!(
        working_set >= 24 * MIB && working_set <= usage,
        "{working_set} of {usage}"
    );
    let available = value(memory.available_bytes);
    assert_eq!(available, (256 << 20) - working_set);
    assert!(value(memory.page_faults) > 0);
    let layer = last.writable_layer.context("no layer")?;
    assert!(value(layer.used_bytes) < 64 * MIB && value(layer.inodes_used) >= 22);
    assert!(
        layer
            .fs_id
            .context("no file system")?
            .mountpoint
            .ends_with("/writable")
    );
    // What is counted for one is counted for all.
    let mut images = bed.runtime.images();
    let info = images.image_fs_info(cri::ImageFsInfoRequest {});
    let all = info.await?.into_inner().container_filesystems;
    let all = all.first().context("no file system of containers")?;
    assert!(value(all.used_bytes) >= 3 * MIB && value(all.inodes_used) >= 22);
    assert!(all.timestamp > 0);
    let pressure = cpu.psi.context("the kernel tells no pressure")?;
    assert!(pressure.some.is_some() && last.io.context("no io")?.psi.is_some());
    assert!(memory.psi.is_some() && last.swap.is_some());

    // The pod's own cgroup holds the container's.
    let all = pod_stats(&bed, &pod).await?;
    let of_pod = value(all.cpu.context("no cpu of the pod")?.usage_core_nano_seconds);
    assert!(of_pod >= value(cpu.usage_core_nano_seconds));
    assert!(value(all.memory.context("no memory of the pod")?.usage_bytes) >= 24 * MIB);
    assert_eq!(value(all.process.context("no processes")?.process_count), 1);
    assert_eq!(all.containers.len(), 1);

    pod.remove().await?;
    remove_cgroup(&bed, "busy")?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_tells_what_its_interface_carried() -> Result<()> {
    let bed = Bed::make().await?;
    // A pod without any process: its namespace is entered all the same.
    let empty = bed.runtime.run_pod(PodSpec::new("empty")).await?;
    let network = pod_stats(&bed, &empty).await?.network.context("no network")?;
    let names: Vec<_> = network.interfaces.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["eth0"]);

    let (server, _) = bed.idle_pod("server").await?;
    let address = server.ip().await?;
    let (pod, client) = bed.idle_pod("client").await?;
    let eth0 = || async {
        let stats = pod_stats(&bed, &pod).await?;
        let network = stats.network.context("no network")?;
        assert!(network.timestamp > 0);
        network.default_interface.context("no interface")
    };
    let before = eth0().await?;
    let ping = ["ping", "-c", "5", "-i", "0.05", "-s", "1000", &address];
    client.exec(&ping).await?;
    let after = eth0().await?;
    assert!(
        value(after.tx_bytes) >= value(before.tx_bytes) + 5 * 1000,
        "{before:?} {after:?}"
    );
    assert!(
        value(after.rx_bytes) >= value(before.rx_bytes) + 5 * 1000,
        "{before:?} {after:?}"
    );

    let host = bed.runtime.run_pod(PodSpec::new("host").host_network()).await?;
    assert!(pod_stats(&bed, &host).await?.network.is_none());
    for pod in [empty, server, pod, host] {
        pod.remove().await?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_choose_and_one_bad_container_harms_none() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("pod")).await?;
    let labelled = ContainerSpec::idle("labelled", &bed.busybox)
        .with(|config| config.labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    let labelled = pod.run(&labelled).await?;
    let created = pod.create(&ContainerSpec::idle("created", &bed.busybox)).await?;
    let ended = pod
        .run(&ContainerSpec::new("ended", &bed.busybox, &["true"]))
        .await?;
    ended.exited().await?;
    let (other, elsewhere) = bed.idle_pod("other").await?;

    assert_eq!(list(&bed, None).await?.len(), 4);
    let of_pod = cri::ContainerStatsFilter {
        pod_sandbox_id: pod.id().to_owned(),
        ..Default::default()
    };
    let found = list(&bed, Some(of_pod)).await?;
    assert_eq!(found.len(), 3);
    for stats in &found {
        let runs = id(stats) == labelled.id();
        assert_eq!(stats.cpu.is_some(), runs, "{}", id(stats));
        assert!(runs || id(stats) == created.id() || id(stats) == ended.id());
    }
    let by_label = cri::ContainerStatsFilter {
        label_selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        ..Default::default()
    };
    let found = list(&bed, Some(by_label)).await?;
    assert_eq!(found.iter().map(id).collect::<Vec<_>>(), [labelled.id()]);
    let request = cri::ContainerStatsRequest {
        container_id: "0".repeat(64),
    };
    let answer = bed.runtime.runtime().container_stats(request).await;
    refused("stats of nobody", answer, &[Code::NotFound]);

    // Somebody moves the container out of its cgroups and removes them: it has no numbers, others do.
    let mut gone = 0;
    for directory in of_instance(bed.node())? {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        if !name.contains(elsewhere.id()) {
            continue;
        }
        let mounts = hierarchies()?;
        let mount = mounts
            .iter()
            .find(|mount| directory.starts_with(mount))
            .context("a hierarchy")?;
        for pid in processes(&directory) {
            std::fs::write(mount.join("cgroup.procs"), pid)?;
        }
        gone += usize::from(std::fs::remove_dir(&directory).is_ok() || !directory.exists());
    }
    assert!(gone > 0, "the container's cgroup was not found");
    let found = list(&bed, None).await?;
    let of = |container: &Container| found.iter().find(|stats| id(stats) == container.id());
    assert!(of(&elsewhere).context("it is listed")?.cpu.is_none());
    assert!(of(&labelled).context("it is listed")?.cpu.is_some());

    pod.stop().await?;
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.id().to_owned(),
    };
    let answer = bed.runtime.runtime().pod_sandbox_stats(request).await;
    refused("stats of a stopped pod", answer, &[Code::FailedPrecondition]);
    let request = cri::ListPodSandboxStatsRequest { filter: None };
    let pods = bed.runtime.runtime().list_pod_sandbox_stats(request).await?;
    assert_eq!(pods.into_inner().stats.len(), 1, "only ready pods");
    pod.remove().await?;
    other.remove().await?;
    bed.leave().await
}

fn processes(directory: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_advertised_metric_has_a_value_with_its_labels() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("pod").await?;
    container.exec(&["sh", "-c", "echo x > /file; sync"]).await?;
    let mut runtime = bed.runtime.runtime();
    let descriptors = runtime
        .list_metric_descriptors(cri::ListMetricDescriptorsRequest {})
        .await?
        .into_inner()
        .descriptors;
    assert!(descriptors.len() >= 45, "{}", descriptors.len());
    let metrics = runtime
        .list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {})
        .await?
        .into_inner()
        .pod_metrics;
    let [of_pod] = &metrics[..] else {
        anyhow::bail!("one pod was run: {metrics:?}");
    };
    assert_eq!(of_pod.pod_sandbox_id, pod.id());
    let [of_container] = &of_pod.container_metrics[..] else {
        anyhow::bail!("one container was run: {of_pod:?}");
    };
    assert_eq!(of_container.container_id, container.id());
    let all = || of_pod.metrics.iter().chain(&of_container.metrics);
    for descriptor in &descriptors {
        let mut found = all().filter(|metric| metric.name == descriptor.name).peekable();
        assert!(found.peek().is_some(), "{} has no value", descriptor.name);
        for metric in found {
            assert_eq!(
                metric.label_values.len(),
                descriptor.label_keys.len(),
                "{metric:?}"
            );
        }
    }
    let number = |name: &str| {
        all()
            .find(|metric| metric.name == name)
            .map(|metric| value(metric.value))
    };
    // The shell and its sleep.
    assert_eq!(number("container_processes"), Some(2));
    assert!(number("container_file_descriptors") >= Some(6));
    assert!(number("container_fs_limit_bytes") > Some(MIB));
    assert!(number("container_memory_rss") > Some(0));
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_containers_are_listed_quickly_and_for_little_memory() -> Result<()> {
    let bed = Bed::make().await?;
    let wanted = count(100, 1000);
    let mut pods = Vec::new();
    for number in 0..wanted / 10 {
        let pod = bed
            .runtime
            .run_pod(PodSpec::new(&format!("pod-{number}")))
            .await?;
        for container in 0..10 {
            pod.run(&ContainerSpec::idle(&format!("c{container}"), &bed.busybox))
                .await?;
        }
        pods.push(pod);
    }
    list(&bed, None).await?;
    let before = rss(&bed.daemon.proc()?)?;
    let (mut containers, mut sandboxes, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(list(&bed, None).await?.len(), wanted);
        containers.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let mut runtime = bed.runtime.runtime();
    for _ in 0..20 {
        let began = Instant::now();
        let request = cri::ListPodSandboxStatsRequest { filter: None };
        let found = runtime.list_pod_sandbox_stats(request).await?.into_inner().stats;
        assert_eq!(found.len(), wanted / 10);
        sandboxes.push(began.elapsed().as_secs_f64() * 1000.0);
        let began = Instant::now();
        runtime
            .list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {})
            .await?;
        metrics.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let after = rss(&bed.daemon.proc()?)?;
    let shown = |name: &str, samples: &[f64]| {
        let (p50, p99) = (percentile(samples, 0.5), percentile(samples, 0.99));
        println!("{name}: p50 {p50:.1} ms, p99 {p99:.1} ms");
    };
    shown(&format!("ListContainerStats of {wanted} containers"), &containers);
    shown("ListPodSandboxStats", &sandboxes);
    shown("ListPodSandboxMetrics", &metrics);
    println!("daemon: {} KiB before, {} KiB after", before / 1024, after / 1024);
    assert!(
        after < before + 8 * MIB,
        "the daemon grew from {before} to {after} bytes"
    );
    for pod in &pods {
        pod.remove().await?;
    }
    bed.leave().await
}

async fn update(
    bed: &Bed,
    container: &Container,
    change: impl FnOnce(&mut cri::LinuxContainerResources),
) -> Result<(), tonic::Status> {
    let mut resources = cri::LinuxContainerResources::default();
    change(&mut resources);
    let request = cri::UpdateContainerResourcesRequest {
        container_id: container.id().to_owned(),
        linux: Some(resources),
        ..Default::default()
    };
    let answer = bed.runtime.runtime().update_container_resources(request).await;
    answer.map(drop)
}

async fn limits(container: &Container) -> Result<cri::LinuxContainerResources> {
    let status = container.status().await?;
    let resources = status.resources.context("a status without resources")?;
    resources.linux.context("resources without Linux")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_before_and_after_the_start_and_all_or_none() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("pod")).await?;
    let spec = ContainerSpec::idle("main", &bed.busybox).resources(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_shares = 512;
    });
    let container = pod.create(&spec).await?;
    // Before the start: what is not named stays.
    update(&bed, &container, |limits| limits.memory_limit_in_bytes = 96 << 20).await?;
    let now = limits(&container).await?;
    assert_eq!((now.memory_limit_in_bytes, now.cpu_shares), (96 << 20, 512));
    container.start().await?;
    container.logged("idle").await?;
    let available = |stats: &cri::ContainerStats| {
        let memory = stats.memory.unwrap_or_default();
        value(memory.available_bytes) + value(memory.working_set_bytes)
    };
    assert_eq!(available(&stats(&bed, &container).await?), 96 << 20);

    // While it runs: the kernel has it, the status says it.
    update(&bed, &container, |limits| {
        limits.memory_limit_in_bytes = 128 << 20;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
    })
    .await?;
    let now = limits(&container).await?;
    assert_eq!(
        (now.memory_limit_in_bytes, now.cpu_quota, now.cpu_shares),
        (128 << 20, 50_000, 512)
    );
    assert_eq!(available(&stats(&bed, &container).await?), 128 << 20);

    // One that the kernel refuses (no such processor) undoes the others of its request.
    let answer = update(&bed, &container, |limits| {
        limits.memory_limit_in_bytes = 256 << 20;
        limits.cpuset_cpus = "4000".into();
    })
    .await;
    assert!(answer.is_err(), "a processor 4000 was accepted");
    assert_eq!(limits(&container).await?, now);
    assert_eq!(available(&stats(&bed, &container).await?), 128 << 20);
    let answer = update(&bed, &container, |limits| limits.cpu_quota = -7).await;
    refused("a quota of -7", answer, &[Code::InvalidArgument]);

    let nobody = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "0".repeat(64),
        ..Default::default()
    };
    let answer = bed
        .runtime
        .runtime()
        .update_pod_sandbox_resources(nobody.clone())
        .await;
    refused("resources of no pod", answer, &[Code::NotFound]);
    let own = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id().to_owned(),
        ..nobody
    };
    bed.runtime.runtime().update_pod_sandbox_resources(own).await?;

    // The new limits outlive the daemon.
    let mut bed = bed;
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    assert_eq!(limits(&container.through(&bed.runtime)).await?, now);
    pod.through(&bed.runtime).remove().await?;
    bed.leave().await
}
