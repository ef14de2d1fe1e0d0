//! Records and state files that are damaged, missing, or a newer program's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec, Pod};
use coracle_testkit::node::Role;
use coracle_testkit::wait;
use coracle_tests::Bed;
use coracle_tests::checks::{holds, refused};

use crate::{PATIENCE, after_restart, answers, audit, kill, nothing_found, row, state};

/// A file of the state directory, as the node calls it.
fn file(bed: &Bed, kind: &str, id: &str, name: &str) -> PathBuf {
    bed.node().state().join(kind).join(id).join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_shim_file_and_dead_shim() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, _container) = bed.idle_pod("file").await?;
    let file = bed.node().state().join("pods").join(pod.id()).join("shim.json");
    bed.node().write(&file, "{\"half")?;
    kill(&bed, Role::Shim)?;
    wait::until("another shim", PATIENCE, || {
        Ok(std::fs::read_to_string(bed.node().path(&file))?
            .contains("keeper")
            .then_some(()))
    })?;
    pod.stop().await?;
    nothing_found(&bed)?;
    row(
        "shim killed, its state file damaged",
        "the containers of that pod are ended",
        "ready; containers exited, 255 `Unknown`",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_mended_or_quarantined() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("mended").await?;
    let (other, beside) = bed.idle_pod("beside").await?;
    let record = |pod: &Pod| bed.node().state().join("pods").join(pod.id()).join("record.json");
    let file = record(&pod);
    // The database has it some milliseconds after the answer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    bed.daemon.kill9()?;
    bed.node().write(&file, "{\"id\":")?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    answers(&container).await?;
    nothing_found(&bed)?;
    row(
        "a pod's record damaged",
        "all",
        "ready, running: it is read from the database",
        "nothing",
    );

    bed.daemon.kill9()?;
    std::fs::remove_file(bed.node().path(&file))?;
    bed.node().write(bed.node().root().join("db.redb"), "")?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    let (other, beside) = (other.through(&bed.runtime), beside.through(&bed.runtime));
    answers(&beside).await?;
    assert!(
        bed.runtime.image(&bed.busybox).await?.is_some(),
        "the image is lost"
    );
    let listed = bed.runtime.list_pods().await?;
    let named = listed
        .iter()
        .find(|listed| listed.id == pod.id())
        .context("it is not listed")?;
    assert_eq!(named.state(), cri::PodSandboxState::SandboxNotready);
    assert!(
        named
            .metadata
            .clone()
            .unwrap_or_default()
            .name
            .starts_with("damaged-")
    );
    let found = audit(&bed)?;
    assert!(
        found.contains(pod.id()) && found.contains("db.redb.damaged"),
        "{found}"
    );
    assert_eq!(state(&container).await?, cri::ContainerState::ContainerRunning);
    row(
        "a pod's record missing, the database empty",
        "all",
        "that pod not ready under the name damaged-ID, the others as before; images are there",
        "record missing, named; the database that was put aside",
    );
    pod.remove().await?;
    std::fs::remove_file(bed.node().root().join("db.redb.damaged"))?;
    nothing_found(&bed)?;
    other.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_of_containers() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("pod").await?;
    let beside = pod.run(&ContainerSpec::idle("beside", &bed.busybox)).await?;
    let record = file(&bed, "containers", container.id(), "record.json");
    // The database has it some milliseconds after the answer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    bed.daemon.kill9()?;
    bed.node().write(&record, "{\"id\":")?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    answers(&container).await?;
    nothing_found(&bed)?;
    row(
        "a container's record damaged",
        "all",
        "ready, running: it is read from the database",
        "nothing",
    );

    bed.daemon.kill9()?;
    bed.node().write(&record, "{\"id\":")?;
    bed.node().write(bed.node().root().join("db.redb"), "")?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    let beside = beside.through(&bed.runtime);
    assert_eq!(pod.status().await?.state(), cri::PodSandboxState::SandboxReady);
    answers(&beside).await?;
    let status = container.exited().await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    holds(&status.message, &["record.json", "damaged"]);
    let name = status.metadata.unwrap_or_default().name;
    assert!(name.starts_with("damaged-"), "{name}");
    row(
        "a container's record damaged, the database empty",
        "all but that container, which is ended",
        "ready; that container exited, 255 `Unknown`, under the name damaged-ID, with what is damaged",
        "the database that was put aside",
    );
    pod.remove().await?;
    std::fs::remove_file(bed.node().root().join("db.redb.damaged"))?;
    nothing_found(&bed)?;
    bed.leave().await
}

/// Gives a record a number that this program does not know, and other contents; gives back what it was.
fn make_newer(bed: &Bed, file: &PathBuf) -> Result<String> {
    let path = bed.node().path(file);
    let before = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    bed.node().write(file, r#"{"format":9,"config":"elsewhere"}"#)?;
    Ok(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_newer_program_are_left_alone() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (mut pod, mut container) = bed.idle_pod("newer").await?;
    let (other, beside) = bed.idle_pod("beside").await?;
    let idle = |bed: &Bed| -> Result<usize> {
        let processes = bed.node().processes()?;
        Ok(processes
            .iter()
            .filter(|process| process.title().contains("sleep 100000"))
            .count())
    };
    // A shell and what it waits for, twice.
    wait::until("two idle containers", PATIENCE, || {
        Ok((idle(&bed)? == 4).then_some(()))
    })?;
    let files = [
        ("pod", file(&bed, "pods", pod.id(), "record.json")),
        (
            "container",
            file(&bed, "containers", container.id(), "record.json"),
        ),
    ];
    for (what, path) in files {
        bed.daemon.kill9()?;
        let before = make_newer(&bed, &path)?;
        (pod, container) = after_restart(&mut bed, &pod, &container).await?;
        answers(&beside.through(&bed.runtime)).await?;
        let name = pod.status().await?.metadata.unwrap_or_default().name;
        assert!(name.starts_with("damaged-"), "{what}: {name}");
        holds(
            &audit(&bed)?,
            &[pod.id(), "format 9", "run the program that wrote it again"],
        );
        assert_eq!(idle(&bed)?, 4, "{what}: something was ended");
        // The program that knows it comes back, and finds what it left.
        bed.daemon.terminate()?;
        let kept = std::fs::read_to_string(bed.node().path(&path))?;
        assert!(kept.contains("\"format\":9"), "{what}: it is overwritten: {kept}");
        bed.node().write(&path, before)?;
        (pod, container) = after_restart(&mut bed, &pod, &container).await?;
        assert_eq!(
            pod.status().await?.state(),
            cri::PodSandboxState::SandboxReady,
            "{what}"
        );
        answers(&container).await?;
        nothing_found(&bed)?;
    }
    row(
        "a pod's or a container's record of a newer program",
        "all",
        "that pod not ready under the name damaged-ID until the newer program is back; the others as before",
        "the record, with both formats",
    );
    let (path, before) = newer_state_of_a_shim(&bed, &pod, &container).await?;
    bed.daemon.terminate()?;
    bed.node().write(&path, before)?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    answers(&container).await?;
    answers(&beside.through(&bed.runtime)).await?;
    nothing_found(&bed)?;
    pod.remove().await?;
    other.through(&bed.runtime).remove().await?;
    bed.leave().await
}

/// A shim that took over by a file it cannot read would end what it does not know. Gives the file, and what it was.
async fn newer_state_of_a_shim(bed: &Bed, pod: &Pod, container: &Container) -> Result<(PathBuf, String)> {
    let path = file(bed, "pods", pod.id(), "shim.json");
    let shims = bed.daemon.processes(Role::Shim)?;
    let own = shims.iter().find(|shim| shim.title().contains(&pod.id()[..13]));
    let own = own.context("the pod has no shim")?;
    own.suspend()?;
    let before = make_newer(bed, &path)?;
    own.kill()?;
    let words = wait::until_async("the refusal", PATIENCE, || async {
        let answer = container.exec(&["true"]).await;
        Ok(answer.err().filter(|status| status.message().contains("format")))
    })
    .await?;
    let codes = [tonic::Code::FailedPrecondition];
    let words = refused::<()>("a state file of a newer program", Err(words), &codes);
    holds(
        &words,
        &["shim.json", "format 9", "run the program that wrote it again"],
    );
    row(
        "shim killed, its state file of a newer program",
        "all",
        "calls of that pod are refused in words (FailedPrecondition) until the newer program is back",
        "nothing",
    );
    Ok((path, before))
}
