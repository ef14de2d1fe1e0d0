//! Volumes, environments and logs that cannot be, and many of them at once.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_tests::Bed;
use tonic::Code;

use crate::{refused, works};

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_cannot_be_mounted() -> Result<()> {
    let bed = Bed::make().await?;
    let host = bed.node().directory().join("volumes");
    fs::create_dir_all(host.join("directory"))?;
    fs::write(host.join("file"), "x")?;
    symlink("/no/such/place", host.join("dangling"))?;
    symlink(host.join("loop"), host.join("loop"))?;
    let pod = bed.runtime.run_pod(PodSpec::new("volumes")).await?;
    let (invalid, not_so) = (Code::InvalidArgument, Code::FailedPrecondition);
    let field = "mounts[0].host_path";
    let bad = [
        (
            "volume below a file",
            "file/below",
            "/x",
            not_so,
            &[field, "file/below", "is a file"][..],
        ),
        (
            "volume is a dangling link",
            "dangling",
            "/x",
            not_so,
            &[field, "dangling", "link to nothing"],
        ),
        (
            "volume is a loop of links",
            "loop",
            "/x",
            not_so,
            &[field, "loop", "circle"],
        ),
        (
            "directory over a file",
            "directory",
            "/etc/passwd",
            invalid,
            &["/etc/passwd", "has a file", "is a directory"],
        ),
        (
            "file over a directory",
            "file",
            "/tmp",
            invalid,
            &["/tmp", "has a directory", "is a file"],
        ),
        (
            "volume below a file of the image",
            "directory",
            "/etc/passwd/x",
            invalid,
            &["/etc/passwd/x", "a file there or above"],
        ),
    ];
    for (case, source, target, code, parts) in bad {
        let spec = ContainerSpec::idle("bad", &bed.busybox).bind(&host.join(source), target);
        let answer = match pod.create(&spec).await {
            Err(status) => Err(status),
            Ok(container) => {
                let started = container.start().await;
                container.remove().await?;
                started
            }
        };
        refused(case, answer, code, parts);
    }
    let empty = ContainerSpec::idle("empty", &bed.busybox).bind("".as_ref(), "/x");
    refused(
        "volume without a source",
        pod.create(&empty).await.map(drop),
        invalid,
        &["mounts[0].host_path", "required"],
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_mounts() -> Result<()> {
    let bed = Bed::make().await?;
    let host = bed.node().directory().join("many");
    let pod = bed.runtime.run_pod(PodSpec::new("many")).await?;
    let mut spec = ContainerSpec::idle("many", &bed.busybox);
    for number in 0..200 {
        let source = host.join(number.to_string());
        fs::create_dir_all(&source)?;
        fs::write(source.join("mark"), number.to_string())?;
        spec = spec.bind(&source, &format!("/volumes/{number}"));
    }
    let container = pod.run(&spec).await?;
    let script = "grep -c ' /volumes/' /proc/self/mounts; cat /volumes/0/mark /volumes/199/mark";
    assert_eq!(container.exec(&["sh", "-c", script]).await?.stdout, "200\n0199");
    works("200 mounts", "all are there");
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn large_environments() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("large")).await?;
    let with = |name: &str, count: usize| {
        let spec = ContainerSpec::idle(name, &bed.busybox);
        (0..count).fold(spec, |spec, number| {
            spec.env(&format!("LARGE_{number}"), vec![b'x'; 100_000])
        })
    };
    let container = pod.run(&with("large", 19)).await?;
    container.logged("idle").await?;
    let count = "tr '\\0' '\\n' < /proc/1/environ | grep -c LARGE_; env | grep -c LARGE_";
    assert_eq!(container.exec(&["sh", "-c", count]).await?.stdout, "19\n19\n");
    works("1.9 MB of environment", "the container and its execs have it");
    // More than a quarter of the stack no kernel takes: it says so when the program is executed.
    let larger = pod.create(&with("larger", 50)).await?;
    refused(
        "5 MB of environment",
        larger.start().await,
        Code::InvalidArgument,
        &["environment", "RLIMIT_STACK", "fewer"],
    );
    larger.remove().await?;
    refused(
        "7 MB of environment",
        pod.create(&with("largest", 70)).await.map(drop),
        Code::InvalidArgument,
        &["envs", "bytes", "at most"],
    );
    let one = ContainerSpec::idle("one", &bed.busybox).env("LARGE", vec![b'x'; 200_000]);
    refused(
        "one variable of 200 kB",
        pod.create(&one).await.map(drop),
        Code::InvalidArgument,
        &["envs[LARGE]", "131071"],
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_written() -> Result<()> {
    let bed = Bed::make().await?;
    let place = bed.node().directory().join("places");
    fs::create_dir_all(place.join("read-only"))?;
    fs::write(place.join("file"), "x")?;
    let read_only = place.join("read-only").display().to_string();
    bed.node()
        .run("mount", &["-t", "tmpfs", "-o", "ro", "tmpfs", &read_only])?;
    let pod_with = async |directory: &str| {
        let directory = place.join(directory).display().to_string();
        let spec = PodSpec::new("logs").with(|config| config.log_directory = directory);
        bed.runtime.run_pod(spec).await
    };
    let create = async |directory: &str| {
        let pod = pod_with(directory).await?;
        let created = pod.create(&ContainerSpec::idle("logs", &bed.busybox)).await;
        let removed = pod.remove().await;
        created.map(drop).and(removed)
    };
    refused(
        "log directory below a file",
        create("file/below").await,
        Code::InvalidArgument,
        &["log_directory", "file/below", "no directory"],
    );
    refused(
        "log directory read-only",
        create("read-only/below").await,
        Code::FailedPrecondition,
        &["log_directory", "read-only/below", "writable"],
    );
    create("missing/deep").await?;
    works("log directory missing", "it is made");

    // One that is taken away while its container runs costs the container nothing.
    let pod = pod_with("taken").await?;
    let script = "while :; do echo line; sleep 0.05; done";
    let container = pod
        .run(&ContainerSpec::script("logs", &bed.busybox, script))
        .await?;
    container.logged("line").await?;
    fs::remove_dir_all(place.join("taken"))?;
    let request = coracle_proto::cri::ReopenContainerLogRequest {
        container_id: container.id().to_owned(),
    };
    let reopened = bed.runtime.runtime().reopen_container_log(request.clone()).await;
    refused(
        "log directory taken away, log reopened",
        reopened,
        Code::FailedPrecondition,
        &["taken", "logs.log"],
    );
    assert_eq!(container.exec(&["true"]).await?.code, 0);
    fs::create_dir_all(place.join("taken"))?;
    bed.runtime.runtime().reopen_container_log(request).await?;
    container.logged("line").await?;
    pod.remove().await?;
    bed.node().run("umount", &[&read_only])?;
    bed.leave().await
}
