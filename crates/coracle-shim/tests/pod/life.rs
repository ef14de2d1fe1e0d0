//! A container's life through the shim: namespaces, logs, exit codes, errors, and nothing left.

use std::fs;

use coracle_task::{KillScope, NamespaceRequest, SandboxRequest, TaskState};
use coracle_types::signal::Signal;
use coracle_types::{ContainerId, Kind, Kinded as _};
use serde_json::json;

use crate::rig::{PATIENCE, Rig, Wish, eventually, is_root, lines, process_with};

pub(crate) fn sandbox(rig: &Rig) -> SandboxRequest {
    SandboxRequest {
        namespaces: NamespaceRequest {
            ipc: true,
            uts: true,
            ..NamespaceRequest::default()
        },
        pins: rig.path("ns"),
        netns: None,
        hostname: "pod-host".into(),
        sysctls: std::iter::once(("kernel.shm_rmid_forced".into(), "1".into())).collect(),
        cgroup: format!("{}/{}", rig.cgroup, rig.pod),
        user: (0, 0),
        shm: Some((rig.path("shm"), 1 << 20)),
    }
}

#[tokio::test]
async fn root_a_shim_comes_answers_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let unknown = rig
        .shim
        .state(&ContainerId::generate())
        .await
        .expect_err("not there");
    assert_eq!(unknown.kind(), Kind::NotFound);
    rig.end().await;
}

#[tokio::test]
async fn root_a_container_in_a_sandbox_runs_logs_ends_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    rig.shim.create_sandbox(sandbox(&rig)).await.expect("a sandbox");
    assert_eq!(
        rig.shim
            .create_sandbox(sandbox(&rig))
            .await
            .expect_err("one")
            .kind(),
        Kind::AlreadyExists
    );
    let linux = json!({ "namespaces": [
        { "type": "mount" },
        { "type": "pid" },
        { "type": "ipc", "path": rig.path("ns/ipc") },
        { "type": "uts", "path": rig.path("ns/uts") },
    ]});
    let script = "hostname; cat /proc/sys/kernel/shm_rmid_forced; echo oops >&2; printf tail; exit 7";
    let wish = Wish {
        command: &["sh", "-c", script],
        linux,
        ..Wish::default()
    };
    let request = rig.request(&wish);
    let id = request.id.clone();
    let pid = rig.shim.create(request.clone()).await.expect("created");
    assert_eq!(
        rig.shim.create(request).await.expect_err("one").kind(),
        Kind::AlreadyExists
    );
    assert_eq!(rig.shim.state(&id).await.expect("state"), TaskState::Created);
    assert_eq!(rig.shim.start(&id).await.expect("started"), pid);
    let exit = rig.shim.wait(&id).await.expect("an exit");
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    // The exit is reported after all that was written.
    let mut lines = rig.lines(&id);
    lines.sort();
    assert_eq!(
        lines,
        [
            "stderr F oops",
            "stdout F 1",
            "stdout F pod-host",
            "stdout F tail"
        ]
    );
    assert_eq!(rig.shim.state(&id).await.expect("state"), TaskState::Exited(exit));
    assert_eq!(
        rig.shim.start(&id).await.expect_err("it ended").kind(),
        Kind::FailedPrecondition
    );
    assert_eq!(
        rig.shim
            .kill(&id, Signal::TERM, KillScope::Init)
            .await
            .expect_err("gone")
            .kind(),
        Kind::NotFound
    );
    rig.shim.delete(&id).await.expect("deleted");
    assert_eq!(
        rig.shim.delete(&id).await.expect_err("gone").kind(),
        Kind::NotFound
    );
    rig.shim.stop_sandbox().await.expect("stopped");
    rig.shim.stop_sandbox().await.expect("again is no error");
    for pin in ["ns/ipc", "ns/uts", "shm"] {
        assert!(!rig.path(pin).exists(), "{pin} is left");
    }
    rig.end().await;
}

#[tokio::test]
async fn root_signals_end_in_128_and_their_number() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    for (signal, scope, code) in [
        (Signal::KILL, KillScope::Init, 137),
        (Signal::KILL, KillScope::All, 137),
        ("RTMIN+3".parse().expect("a signal"), KillScope::Init, 42),
    ] {
        let id = rig
            .shell("trap 'exit 42' 37; echo up; while :; do sleep 0.01; done")
            .await;
        eventually("the trap", || {
            rig.lines(&id).contains(&"stdout F up".to_owned()).then_some(())
        })
        .await;
        assert_eq!(
            rig.shim.delete(&id).await.expect_err("it runs").kind(),
            Kind::FailedPrecondition
        );
        rig.shim.kill(&id, signal, scope).await.expect("signalled");
        assert_eq!(rig.shim.wait(&id).await.expect("an exit").code, code, "{signal}");
        rig.shim.delete(&id).await.expect("deleted");
    }
    rig.end().await;
}

#[tokio::test]
async fn root_what_never_started_can_be_deleted() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let request = rig.request(&Wish::default());
    let id = request.id.clone();
    rig.shim.create(request).await.expect("created");
    rig.shim.delete(&id).await.expect("deleted");
    rig.end().await;
}

#[tokio::test]
async fn root_refusals_say_what_is_wrong() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut request = rig.request(&Wish::default());
    request.log = Some(rig.path("logs/missing/0.log"));
    let error = rig.shim.create(request).await.expect_err("no directory");
    assert!(error.to_string().contains("logs/missing/0.log"), "{error}");
    let missing = rig.request(&Wish {
        command: &["no-such-program"],
        ..Wish::default()
    });
    let id = missing.id.clone();
    let refused = async {
        rig.shim.create(missing).await?;
        rig.shim.start(&id).await
    };
    let error = refused.await.expect_err("no program");
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("no-such-program"), "{error}");
    // What could not start is deleted like what never did.
    let _ = rig.shim.delete(&id).await;
    rig.end().await;
}

#[tokio::test]
async fn root_a_log_is_reopened_after_a_rename() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig
        .shell("n=0; while :; do echo $n; n=$((n+1)); sleep 0.002; done")
        .await;
    eventually("lines", || (rig.lines(&id).len() > 5).then_some(())).await;
    let renamed = rig.path("logs/renamed");
    fs::rename(rig.log(&id), &renamed).expect("rename");
    rig.shim.reopen_log(&id).await.expect("reopened");
    eventually("lines", || (rig.lines(&id).len() > 5).then_some(())).await;
    rig.shim
        .kill(&id, Signal::KILL, KillScope::All)
        .await
        .expect("killed");
    rig.shim.wait(&id).await.expect("an exit");
    let mut all = lines(&renamed);
    all.extend(rig.lines(&id));
    let counted: Vec<String> = (0..all.len())
        .map(|number| format!("stdout F {number}"))
        .collect();
    assert_eq!(all, counted, "no line is lost or doubled");
    fs::remove_file(rig.log(&id)).expect("removed");
    let error = rig.shim.reopen_log(&id).await.expect_err("it ended");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(!rig.log(&id).exists(), "no file is made");
    rig.shim.delete(&id).await.expect("deleted");
    rig.end().await;
}

#[tokio::test]
async fn root_the_exit_of_the_init_ends_a_container_that_shares_pids() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut request = sandbox(&rig);
    request.namespaces.pid = true;
    let created = rig.shim.create_sandbox(request).await.expect("a sandbox");
    assert!(created.init.is_some());
    let linux = json!({ "namespaces": [
        { "type": "mount" },
        { "type": "pid", "path": rig.path("ns/pid") },
    ]});
    let marker = format!("5{:05}", std::process::id());
    let script = format!("sleep {marker} & sleep 0.05; exit 3");
    let wish = Wish {
        command: &["sh", "-c", &script],
        linux,
        ..Wish::default()
    };
    let id = rig.run(&wish).await;
    assert_eq!(rig.shim.wait(&id).await.expect("an exit").code, 3);
    eventually("the rest to die", || {
        process_with(&format!("sleep {marker}")).is_none().then_some(())
    })
    .await;
    rig.shim.delete(&id).await.expect("deleted");
    rig.shim.stop_sandbox().await.expect("stopped");
    rig.end().await;
}

#[tokio::test]
async fn root_want_of_memory_is_told() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let linux = json!({ "resources": { "memory": { "limit": 16 << 20 } } });
    let script = "tail /dev/zero";
    let id = rig
        .run(&Wish {
            command: &["sh", "-c", script],
            linux,
            ..Wish::default()
        })
        .await;
    let exit = tokio::time::timeout(PATIENCE, rig.shim.wait(&id))
        .await
        .expect("in time")
        .expect("an exit");
    assert!(exit.oom_killed && exit.code == 137, "{exit:?}");
    rig.shim.delete(&id).await.expect("deleted");
    rig.end().await;
}
