//! The node's own bad days: cgroups taken away, descriptors used up, paths too long, disks full.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_testkit::census::cgroup;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::image::{Compression, ImageBuilder, Layer};
use coracle_testkit::node::daemon::program;
use coracle_testkit::node::{Process, Role};
use coracle_testkit::wait;
use coracle_tests::checks::holds;
use coracle_tests::{Bed, Plan};
use tonic::Code;

use crate::{refused, works};

/// Takes a cgroup away as somebody with a shell would: what is in it goes to the top, then the directory.
fn remove_cgroup(group: &Path) -> Result<()> {
    let top = group
        .ancestors()
        .take_while(|group| group.join("cgroup.procs").exists())
        .last()
        .context("no cgroup")?;
    wait::until("the cgroup to be empty", Duration::from_secs(10), || {
        // Processes come and go meanwhile.
        for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
            let _ = fs::write(top.join("cgroup.procs"), pid);
        }
        Ok(fs::remove_dir(group).ok())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn cgroup_removed_by_hand() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("cgroup").await?;
    container.logged("idle").await?;
    let own = |group: &PathBuf| cgroup::is_of(group, container.id());
    for group in cgroup::of_instance(bed.node())?.iter().filter(|group| own(group)) {
        remove_cgroup(group)?;
    }
    refused(
        "cgroup removed by hand: exec",
        container.exec(&["true"]).await,
        Code::FailedPrecondition,
        &["cgroup", container.id()],
    );
    // Another container of the pod is none the worse for it.
    let other = pod.run(&ContainerSpec::idle("other", &bed.busybox)).await?;
    assert_eq!(other.exec(&["true"]).await?.code, 0);
    container.stop(Duration::from_secs(5)).await?;
    assert_eq!(container.status().await?.exit_code, 0);
    works(
        "cgroup removed by hand: stop and removal",
        "the container is stopped in order",
    );
    container.remove().await?;
    pod.remove().await?;
    bed.leave().await
}

/// Leaves a process no further descriptor: the limit is the lowest number that is free. Gives back what it was.
fn use_up_descriptors(bed: &Bed, process: &Process) -> Result<String> {
    let pid = process.pid.to_string();
    let had = bed.node().run(
        "prlimit",
        &["--pid", &pid, "--nofile", "--output=SOFT", "--noheadings"],
    )?;
    let directory = process.directory.join("fd");
    let free = (0_u32..).find(|number| fs::symlink_metadata(directory.join(number.to_string())).is_err());
    set_descriptors(bed, process, &free.unwrap_or_default().to_string())?;
    Ok(had.trim().to_owned())
}

fn set_descriptors(bed: &Bed, process: &Process, soft: &str) -> Result<()> {
    let (pid, limit) = (process.pid.to_string(), format!("--nofile={soft}:"));
    bed.node().run("prlimit", &["--pid", &pid, &limit]).map(drop)
}

fn one(bed: &Bed, role: Role) -> Result<Process> {
    let mut all = bed.daemon.processes(role)?;
    ensure!(all.len() == 1, "{role:?}: {all:?}");
    all.pop().context("none")
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_used_up() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("descriptors").await?;
    let daemon = one(&bed, Role::Daemon)?;
    let had = use_up_descriptors(&bed, &daemon)?;
    refused(
        "descriptors of the daemon used up: pod",
        bed.runtime.run_pod(PodSpec::new("none")).await.map(drop),
        Code::ResourceExhausted,
        &["open files"],
    );
    // What needs none goes on, and who connects meanwhile waits instead of ending the daemon.
    container.status().await?;
    let mut connecting = tokio::spawn({
        let (socket, logs) = (bed.daemon.socket(), bed.node().directory().to_owned());
        async move {
            let runtime = coracle_testkit::cri::Runtime::connect(&socket, &logs).await?;
            anyhow::Ok(runtime.list_pods().await?.len())
        }
    });
    let early = tokio::time::timeout(Duration::from_millis(500), &mut connecting).await;
    set_descriptors(&bed, &daemon, &had)?;
    let listed = match early {
        Ok(listed) => listed,
        Err(_) => tokio::time::timeout(wait::patient(Duration::from_secs(20)), connecting)
            .await
            .context("the client that waited is not served")?,
    };
    listed??;
    let after = bed.runtime.run_pod(PodSpec::new("after")).await?;
    after.remove().await?;

    let shim = one(&bed, Role::Shim)?;
    let had = use_up_descriptors(&bed, &shim)?;
    refused(
        "descriptors of a shim used up: exec",
        container.exec(&["true"]).await,
        Code::ResourceExhausted,
        &["open files"],
    );
    let answer = pod.run(&ContainerSpec::idle("more", &bed.busybox)).await;
    refused(
        "descriptors of a shim used up: container",
        answer.map(drop),
        Code::ResourceExhausted,
        &["open files"],
    );
    set_descriptors(&bed, &shim, &had)?;
    assert_eq!(container.exec(&["true"]).await?.code, 0);
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_path_that_is_too_long() -> Result<()> {
    let bed = Bed::make().await?;
    let long = format!("/run/{}", "x".repeat(110));
    let mut command = bed.node().command(program()?);
    command.args(["serve", "--instance", "long", "--root", "/run/long-root"]);
    command.args(["--state", "/run/long-state", "--socket", &long]);
    let output = command.output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it runs: {words}");
    holds(&words, &["socket", &long, "115 bytes", "107", "shorter"]);
    works("socket path too long", words.trim());
    // Nothing was made for it: no directory, no lock, no keeper. The census looks, too.
    for left in ["long-root", "long-state", "coracle-instances/long.lock"] {
        assert!(!bed.node().path("/run").join(left).exists(), "{left} is left");
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_full() -> Result<()> {
    let plan = Plan {
        subnet: Some("10.90.0.0/16"),
        ..Plan::default()
    };
    let mut bed = Bed::on_disk_of(96 << 20, plan).await?;
    let large = Layer::new().file("/large", 0o644, vec![7; 48 << 20]).build();
    let large = ImageBuilder::new().layer(large, Compression::Gzip).build();
    let reference = bed.push(&large, "large", "1").await?;
    let spare = Layer::new().file("/spare", 0o644, vec![7; 1 << 20]).build();
    let spare = ImageBuilder::new().layer(spare, Compression::Gzip).build();
    let spare = bed.push(&spare, "spare", "1").await?;
    bed.runtime.pull(&spare).await?;
    let (pod, container) = bed.idle_pod("full").await?;
    let root = bed.node().root().display().to_string();
    let fill = format!("dd if=/dev/zero of={root}/fill bs=1M count=70 2>&1; df {root}");
    bed.node().run("sh", &["-c", &fill])?;
    refused(
        "disk full: pull",
        bed.runtime.pull(&reference).await,
        Code::ResourceExhausted,
        &["large:1", &root, "space"],
    );
    assert_eq!(bed.runtime.image(&reference).await?, None);
    let fill = format!("dd if=/dev/zero of={root}/rest bs=4k 2>/dev/null; true");
    bed.node().run("sh", &["-c", &fill])?;
    // What runs goes on; what would write is told.
    assert_eq!(container.exec(&["true"]).await?.code, 0);
    let output = container.exec(&["sh", "-c", "echo x > /x"]).await?;
    holds(&output.stderr, &["No space left"]);
    let answer = pod.create(&ContainerSpec::idle("more", &bed.busybox)).await;
    refused(
        "disk full: container",
        answer.map(drop),
        Code::ResourceExhausted,
        &["space"],
    );
    container.stop(Duration::from_secs(5)).await?;
    container.remove().await?;
    pod.remove().await?;
    works("disk full: stop and removal", "they succeed");
    // The way out of it, which must not need space itself.
    let fill = format!("dd if=/dev/zero of={root}/last bs=1k 2>/dev/null; true");
    bed.node().run("sh", &["-c", &fill])?;
    bed.runtime.remove_image(&spare).await?;
    assert_eq!(bed.runtime.image(&spare).await?, None);
    works("disk full: removal of an image", "it succeeds");
    // A daemon that is started on the full disk serves, and remembers what came before.
    let (pod, container) = match bed.idle_pod("beside").await {
        Ok(made) => (Some(made.0), Some(made.1)),
        Err(_) => (None, None),
    };
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let listed = bed.runtime.list_pods().await?;
    assert_eq!(listed.len(), usize::from(pod.is_some()), "{listed:?}");
    fs::remove_file(bed.node().path(format!("{root}/fill")))?;
    fs::remove_file(bed.node().path(format!("{root}/rest")))?;
    fs::remove_file(bed.node().path(format!("{root}/last")))?;
    if let (Some(pod), Some(container)) = (pod, container) {
        assert_eq!(container.through(&bed.runtime).exec(&["true"]).await?.code, 0);
        pod.through(&bed.runtime).remove().await?;
    }
    bed.runtime.pull(&reference).await?;
    bed.runtime.remove_image(&reference).await?;
    works(
        "disk full, then space again",
        "pulls and pods work, nothing is lost",
    );
    bed.leave().await
}
