//! Limits, names and ends of containers' cgroups, as whoever looks into the hierarchy sees them. Needs root.
//!
//! Each test asserts what the hierarchy of the machine shows: version 1 (alone or beside a version 2 without
//! controllers) or version 2, made by the daemon or by systemd (`CORACLE_CGROUP_DRIVER=systemd`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec, Pod, PodSpec};
use coracle_testkit::node::{Role, by_systemd};
use coracle_testkit::wait;
use coracle_tests::Bed;
use coracle_tests::checks::{holds, refused};
use tonic::Code;

const MIB: i64 = 1 << 20;

/// Whether controllers are version 2's.
fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A container's directory in the hierarchy of a controller.
fn directory(bed: &Bed, controller: &str, id: &str) -> Result<PathBuf> {
    let groups = coracle_testkit::census::cgroup::of_instance(bed.node())?;
    let found = groups.into_iter().find(|path| {
        let text = path.to_string_lossy();
        coracle_testkit::census::cgroup::is_of(path, id)
            && (v2()
                || text.contains(&format!("/{controller}/"))
                || text.contains(&format!("/{controller},")))
    });
    found.with_context(|| format!("no cgroup of {id} with the controller {controller}"))
}

fn file(bed: &Bed, id: &str, controller: &str, v1: &str, v2_name: &str) -> Result<String> {
    let path = directory(bed, controller, id)?.join(if v2() { v2_name } else { v1 });
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

fn limited(bed: &Bed) -> ContainerSpec {
    ContainerSpec::idle("limited", &bed.busybox).resources(|resources| {
        resources.memory_limit_in_bytes = 64 * MIB;
        resources.cpu_shares = 1024;
        resources.cpu_quota = 50_000;
        resources.cpu_period = 100_000;
        resources.cpuset_cpus = "0".into();
    })
}

async fn in_pod(bed: &Bed, name: &str, spec: &ContainerSpec) -> Result<(Pod, Container)> {
    let parent = bed.node().cgroup_parent();
    let pod = PodSpec::new(name).linux(|linux| linux.cgroup_parent = parent);
    let pod = bed.runtime.run_pod(pod).await?;
    let container = pod.run(spec).await?;
    Ok((pod, container))
}

/// The kubelet makes a pod's cgroup and takes it away; here the tests do, as the kubelet would.
fn remove_parent(bed: &Bed) -> Result<()> {
    let parent = bed.node().cgroup_parent();
    if by_systemd() {
        let slice = parent.rsplit('/').next().unwrap_or_default();
        bed.node().run("systemctl", &["stop", slice])?;
        return Ok(());
    }
    for hierarchy in coracle_testkit::census::cgroup::hierarchies()? {
        let _ = fs::remove_dir(hierarchy.join(parent.trim_start_matches('/')));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_stand_in_the_files_of_this_hierarchy() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = in_pod(&bed, "limits", &limited(&bed)).await?;
    let id = container.id();
    assert_eq!(
        file(&bed, id, "memory", "memory.limit_in_bytes", "memory.max")?,
        (64 * MIB).to_string()
    );
    let weight = if v2() { "100" } else { "1024" };
    assert_eq!(file(&bed, id, "cpu", "cpu.shares", "cpu.weight")?, weight);
    let quota = if v2() { "50000 100000" } else { "50000" };
    assert_eq!(file(&bed, id, "cpu", "cpu.cfs_quota_us", "cpu.max")?, quota);
    assert_eq!(file(&bed, id, "cpuset", "cpuset.cpus", "cpuset.cpus")?, "0");
    if v2() {
        // Memory and swap together are memory alone: no swap. Where none is counted the file is missing.
        let swap = directory(&bed, "memory", id)?.join("memory.swap.max");
        assert!(!swap.exists() || fs::read_to_string(&swap)?.trim() == "0");
    }
    pod.remove().await?;
    remove_parent(&bed)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lies_where_its_driver_puts_it_and_nothing_of_ours_is_beside_it() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = in_pod(&bed, "place", &ContainerSpec::idle("place", &bed.busybox)).await?;
    let name = if by_systemd() {
        format!("cri-containerd-{}.scope", container.id())
    } else {
        container.id().to_owned()
    };
    let own = directory(&bed, "memory", container.id())?;
    let parent = bed.node().cgroup_parent();
    assert!(
        own.ends_with(format!("{}/{name}", parent.trim_start_matches('/'))),
        "{}",
        own.display()
    );
    for pid in fs::read_to_string(own.join("cgroup.procs"))?.lines() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        assert!(!name.starts_with("coracle"), "the stand-in has left: {name}");
    }
    // Keeper and shims have a cgroup of their own, and the pod's has processes in containers only.
    let above = own.parent().context("a parent")?;
    assert_eq!(fs::read_to_string(above.join("cgroup.procs"))?, "");
    for process in bed.node().processes()? {
        if process.name.starts_with("coracle-keeper") || process.name.starts_with("coracle-shim") {
            let cgroups = fs::read_to_string(process.directory.join("cgroup"))?;
            let slice = format!("/{}.slice", bed.node().instance());
            assert!(
                cgroups.lines().all(|line| line.contains(&slice)),
                "{}: {cgroups}",
                process.name
            );
            assert!(!cgroups.contains("kubepods"), "{cgroups}");
        }
    }
    let config = bed
        .runtime
        .runtime()
        .runtime_config(cri::RuntimeConfigRequest {})
        .await?
        .into_inner();
    let driver = config.linux.unwrap_or_default().cgroup_driver();
    let expected = if by_systemd() {
        cri::CgroupDriver::Systemd
    } else {
        cri::CgroupDriver::Cgroupfs
    };
    assert_eq!(driver, expected);
    pod.remove().await?;
    assert!(!own.exists(), "{}", own.display());
    if by_systemd() {
        let known = bed
            .node()
            .run("systemctl", &["list-units", "--all", "--no-legend", &name])?;
        assert_eq!(known.trim(), "", "the unit is left");
    }
    remove_parent(&bed)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_of_the_other_driver_is_refused() -> Result<()> {
    let bed = Bed::make().await?;
    let (parent, word) = if by_systemd() {
        ("/kubepods/pod1", "systemd")
    } else {
        ("/kubepods.slice/kubepods-pod1.slice", "cgroupfs")
    };
    let pod = PodSpec::new("other").linux(|linux| linux.cgroup_parent = parent.into());
    let words = refused(
        "a parent of the other driver",
        bed.runtime.run_pod(pod).await,
        &[Code::InvalidArgument],
    );
    holds(&words, &["linux.cgroup_parent", parent, word, "cgroupDriver"]);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_its_own_limits_and_cannot_write_them() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = in_pod(&bed, "view", &limited(&bed)).await?;
    let path = if v2() {
        "/sys/fs/cgroup/memory.max"
    } else {
        "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    };
    let read = container.exec(&["cat", path]).await?;
    assert_eq!(
        (read.stdout.trim(), read.code),
        ((64 * MIB).to_string().as_str(), 0),
        "{read:?}"
    );
    let written = container.exec(&["sh", "-c", &format!("echo 1 > {path}")]).await?;
    assert!(
        written.code != 0 && written.stderr.contains("Read-only"),
        "{written:?}"
    );
    pod.remove().await?;
    remove_parent(&bed)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_out_of_memory_is_told_to_be_so() -> Result<()> {
    let bed = Bed::make().await?;
    let greedy = ContainerSpec::script(
        "greedy",
        &bed.busybox,
        "dd if=/dev/zero of=/dev/null bs=128M count=1; exit $?",
    )
    .resources(|resources| resources.memory_limit_in_bytes = 16 * MIB);
    let (pod, container) = in_pod(&bed, "oom", &greedy).await?;
    let status = container.exited().await?;
    assert_eq!(
        (status.reason.as_str(), status.exit_code),
        ("OOMKilled", 137),
        "{status:?}"
    );
    // What fails by itself in the same pod does not run out of memory.
    let failing = pod
        .run(&ContainerSpec::script("failing", &bed.busybox, "exit 137"))
        .await?;
    assert_eq!(failing.exited().await?.reason, "Error");
    pod.remove().await?;
    remove_parent(&bed)?;
    bed.leave().await
}

/// The processes of a container as the machine counts them; none when its cgroup is gone.
fn pids(bed: &Bed, id: &str) -> Vec<String> {
    let text =
        directory(bed, "memory", id).and_then(|path| Ok(fs::read_to_string(path.join("cgroup.procs"))?));
    text.unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_memory_is_told_although_no_shim_saw_it() -> Result<()> {
    let mut bed = Bed::make().await?;
    let shared = bed.node().directory().join("shared");
    fs::create_dir(&shared)?;
    let greedy = ContainerSpec::script(
        "greedy",
        &bed.busybox,
        "until [ -e /shared/now ]; do sleep 0.1; done; exec dd if=/dev/zero of=/dev/null bs=128M count=1",
    )
    .bind(&shared, "/shared")
    .resources(|resources| resources.memory_limit_in_bytes = 16 * MIB);
    let (pod, container) = in_pod(&bed, "unseen", &greedy).await?;
    let (other, idle) = bed.idle_pod("killed").await?;
    bed.daemon.kill9()?;
    for shim in bed.daemon.processes(Role::Shim)? {
        shim.kill()?;
    }
    fs::write(shared.join("now"), "")?;
    // The other one is killed by somebody: that is no want of memory.
    for pid in pids(&bed, idle.id()) {
        Command::new("kill").args(["-KILL", &pid]).status()?;
    }
    wait::until("the end of both containers", Duration::from_secs(20), || {
        Ok((pids(&bed, container.id()).is_empty() && pids(&bed, idle.id()).is_empty()).then_some(()))
    })?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    for (container, reason) in [(container, "OOMKilled"), (idle, "Error")] {
        let status = container.through(&bed.runtime).exited().await?;
        assert_eq!(
            (status.reason.as_str(), status.exit_code),
            (reason, 137),
            "{status:?}"
        );
    }
    pod.through(&bed.runtime).remove().await?;
    other.through(&bed.runtime).remove().await?;
    remove_parent(&bed)?;
    fs::remove_dir_all(&shared)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn unified_sets_files_of_version_2_and_leaves_none_other() -> Result<()> {
    let bed = Bed::make().await?;
    let with = |key: &str, value: &str| {
        limited(&bed).resources(|resources| {
            resources.unified.insert(key.into(), value.into());
        })
    };
    let pod = bed.runtime.run_pod(PodSpec::new("unified")).await?;
    for key in ["cgroup.procs", "../memory.max", "memory", "cgroup.kill"] {
        let words = refused(key, pod.create(&with(key, "1")).await, &[Code::InvalidArgument]);
        holds(&words, &["unified", key]);
    }
    if v2() {
        let grouped = with("memory.oom.group", "1").resources(|resources| {
            resources
                .unified
                .insert("memory.high".into(), (32 * MIB).to_string());
            resources
                .unified
                .insert("memory.max".into(), (48 * MIB).to_string());
        });
        let container = pod.run(&grouped).await?;
        let read = |name: &str| file(&bed, container.id(), "memory", name, name);
        assert_eq!(read("memory.oom.group")?, "1");
        assert_eq!(read("memory.high")?, (32 * MIB).to_string());
        assert_eq!(read("memory.max")?, (48 * MIB).to_string(), "unified wins");
        let missing = with("memory.nonsense", "1").with(|config| {
            config.metadata.get_or_insert_default().name = "missing".into();
        });
        let missing = pod.run(&missing);
        let words = refused(
            "a file that is not there",
            missing.await,
            &[
                Code::InvalidArgument,
                Code::Internal,
                Code::Unknown,
                Code::Unimplemented,
            ],
        );
        holds(&words, &["memory.nonsense"]);
    } else {
        let words = refused(
            "unified",
            pod.create(&with("memory.high", "1")).await,
            &[Code::Unimplemented, Code::FailedPrecondition],
        );
        holds(&words, &["cgroup v1"]);
    }
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_gets_in_where_a_manager_inside_took_the_cgroup_for_itself() -> Result<()> {
    let bed = Bed::make().await?;
    // As systemd or a container engine does inside: processes go below, controllers to the children.
    let takes = "mkdir /sys/fs/cgroup/init && for pid in $(cat /sys/fs/cgroup/cgroup.procs); do \
                 echo $pid > /sys/fs/cgroup/init/cgroup.procs; done; \
                 echo +pids > /sys/fs/cgroup/cgroup.subtree_control && echo taken; exec sleep 1000";
    let script = if v2() {
        takes
    } else {
        "echo taken; exec sleep 1000"
    };
    let spec = ContainerSpec::script("manager", &bed.busybox, script)
        .security(|security| security.privileged = true);
    let pod = PodSpec::new("manager").linux(|linux| {
        linux.security_context.get_or_insert_default().privileged = true;
    });
    let pod = bed.runtime.run_pod(pod).await?;
    let container = pod.run(&spec).await?;
    container.logged("taken").await?;
    let inside = container
        .exec(&["sh", "-c", "grep ^0:: /proc/self/cgroup; true"])
        .await?;
    assert_eq!(inside.code, 0, "{inside:?}");
    if v2() {
        // Not in the cgroup that gives its controllers away: in a leaf of its own beside the manager's.
        let own = directory(&bed, "memory", container.id())?;
        let name = own.file_name().unwrap_or_default().to_string_lossy();
        holds(&inside.stdout, &[&format!("/{name}/exec-")]);
        assert_eq!(fs::read_to_string(own.join("cgroup.procs"))?, "");
        assert_eq!(
            fs::read_to_string(own.join("init/cgroup.procs"))?.lines().count(),
            1
        );
    }
    container.stop(Duration::from_secs(0)).await?;
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_outlive_their_daemon_keep_their_cgroup() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = in_pod(&bed, "outlives", &limited(&bed)).await?;
    let own = directory(&bed, "memory", container.id())?;
    bed.daemon.kill9()?;
    assert!(!fs::read_to_string(own.join("cgroup.procs"))?.is_empty());
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let (pod, container) = (pod.through(&bed.runtime), container.through(&bed.runtime));
    assert_eq!(container.exec(&["true"]).await?.code, 0);
    pod.remove().await?;
    let gone = || Ok((!own.exists()).then_some(()));
    wait::until("the cgroup to be gone", Duration::from_secs(10), gone)?;
    remove_parent(&bed)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_init_has_a_cgroup_of_its_own() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("shared").shared_pids()).await?;
    let own = directory(&bed, "memory", pod.id())?;
    assert_eq!(fs::read_to_string(own.join("cgroup.procs"))?.lines().count(), 1);
    let container = pod.run(&ContainerSpec::idle("shared", &bed.busybox)).await?;
    assert_ne!(directory(&bed, "memory", container.id())?, own);
    pod.remove().await?;
    assert!(!own.exists());
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_systemd_looks_at_again_stays_as_it_was_asked() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = in_pod(&bed, "reload", &limited(&bed)).await?;
    if by_systemd() {
        bed.node().run("systemctl", &["daemon-reload"])?;
        bed.node().run("systemctl", &["daemon-reexec"])?;
    }
    let memory = || {
        file(
            &bed,
            container.id(),
            "memory",
            "memory.limit_in_bytes",
            "memory.max",
        )
    };
    assert_eq!(memory()?, (64 * MIB).to_string());
    // And a connection that was cut by that is made anew.
    let update = cri::UpdateContainerResourcesRequest {
        container_id: container.id().to_owned(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 32 * MIB,
            ..Default::default()
        }),
        ..Default::default()
    };
    bed.runtime.runtime().update_container_resources(update).await?;
    assert_eq!(memory()?, (32 * MIB).to_string());
    if by_systemd() {
        let unit = format!("cri-containerd-{}.scope", container.id());
        let shown = bed
            .node()
            .run("systemctl", &["show", "-p", "MemoryMax", "--value", &unit])?;
        assert_eq!(shown.trim(), (32 * MIB).to_string());
        bed.node().run("systemctl", &["daemon-reload"])?;
        assert_eq!(memory()?, (32 * MIB).to_string());
    }
    pod.remove().await?;
    remove_parent(&bed)?;
    bed.leave().await
}
