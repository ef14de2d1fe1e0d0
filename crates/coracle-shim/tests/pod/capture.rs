//! ExecSync: output, limits, deadlines, and who may hold a pipe without holding up the call.

use std::time::Duration;

use coracle_types::{Kind, Kinded as _};

use crate::rig::{Rig, cgroups, eventually, exec, is_root, kill, process_with};

#[tokio::test]
async fn root_an_exec_answers_with_output_and_code() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig.shell("sleep 1000").await;
    let output = rig
        .shim
        .exec_sync(&id, exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]))
        .await;
    let output = output.expect("an exec");
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice(), output.code),
        (&b"out\n"[..], &b"err\n"[..], 9)
    );
    let missing = rig
        .shim
        .exec_sync(&id, exec(&["no-such-program"]))
        .await
        .expect_err("not there");
    assert_eq!(missing.kind(), Kind::NotFound);
    let mut flood = exec(&["sh", "-c", "yes | head -c 300000"]);
    flood.limit = 100_000;
    let output = rig.shim.exec_sync(&id, flood).await.expect("an exec");
    assert_eq!((output.stdout.len(), output.code), (100_000, 0));
    rig.end().await;
}

#[tokio::test]
async fn root_a_deadline_kills_the_whole_tree() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig.shell("sleep 1000").await;
    let marker = format!("6{:05}", std::process::id());
    let script = format!("(sleep {marker} &) ; sleep {marker}");
    let mut request = exec(&["sh", "-c", &script]);
    request.timeout = Some(Duration::from_millis(300));
    let error = rig.shim.exec_sync(&id, request).await.expect_err("too long");
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    eventually("the tree to die", || {
        process_with(&format!("sleep {marker}")).is_none().then_some(())
    })
    .await;
    rig.shim
        .exec_sync(&id, exec(&["true"]))
        .await
        .expect("the container lives on");
    rig.end().await;
}

#[tokio::test]
async fn root_a_child_that_holds_the_pipe_lives_on_and_does_not_hold_up_the_answer() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig.shell("sleep 1000").await;
    let marker = format!("7{:05}", std::process::id());
    let script = format!("sleep {marker} & echo done");
    let output = rig.shim.exec_sync(&id, exec(&["sh", "-c", &script])).await;
    assert_eq!(output.expect("an exec").stdout, b"done\n");
    let child = eventually("what a hook started", || process_with(&format!("sleep {marker}"))).await;
    rig.shim.exec_sync(&id, exec(&["true"])).await.expect("an exec");
    assert_eq!(exec_cgroups(&rig), 1, "one is in use");
    kill(child);
    eventually("its death", || {
        process_with(&format!("sleep {marker}")).is_none().then_some(())
    })
    .await;
    rig.shim.exec_sync(&id, exec(&["true"])).await.expect("an exec");
    assert_eq!(exec_cgroups(&rig), 0, "those of ended execs are gone");
    rig.end().await;
}

fn exec_cgroups(rig: &Rig) -> usize {
    let names = cgroups(&rig.cgroup);
    names
        .iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("exec-"))
        })
        .count()
}

#[tokio::test]
async fn root_many_floods_at_once_answer() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig.shell("sleep 1000").await;
    let calls = (0..10).map(|_| {
        let (shim, id) = (rig.shim.clone(), id.clone());
        tokio::spawn(async move {
            let mut request = exec(&["yes"]);
            request.timeout = Some(Duration::from_millis(500));
            request.limit = 1 << 20;
            shim.exec_sync(&id, request).await
        })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        let error = call.await.expect("joined").expect_err("endless");
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
    }
    rig.end().await;
}
