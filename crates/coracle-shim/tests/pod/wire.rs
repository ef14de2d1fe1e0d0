//! The calls that our own client does not make, as containerd makes them.

use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use coracle_task::{KillScope, TaskCreate};
use coracle_types::signal::Signal;
use coracle_types::{ContainerId, ExecId};
use serde_json::json;
use ttrpc::context::{Context, with_duration};

use crate::rig::{PATIENCE, Rig, Wish, eventually, exec, is_root};

fn soon() -> Context {
    with_duration(PATIENCE)
}

async fn task(rig: &Rig) -> TaskClient {
    let socket = format!("unix://{}", rig.state.join("shim.sock").display());
    TaskClient::new(
        ttrpc::asynchronous::Client::connect(&socket)
            .await
            .expect("connected"),
    )
}

#[tokio::test]
async fn root_containerds_exec_runs_and_is_forgotten() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig.shell("sleep 1000").await;
    let task = task(&rig).await;
    let exec_id = ExecId::generate();
    let out = rig.path("out");
    std::fs::write(&out, "").expect("a file");
    let mut request = api::ExecProcessRequest::new();
    request.id = id.to_string();
    request.exec_id = exec_id.to_string();
    request.stdout = out.display().to_string();
    let mut spec = Any::new();
    spec.value = serde_json::to_vec(&exec(&["sh", "-c", "echo hello; exit 11"]).process).expect("json");
    request.spec = MessageField::some(spec);
    task.exec(soon(), &request).await.expect("declared");
    task.exec(soon(), &request).await.expect_err("one");
    let mut start = api::StartRequest::new();
    (start.id, start.exec_id) = (id.to_string(), exec_id.to_string());
    assert!(task.start(soon(), &start).await.expect("started").pid > 0);
    let mut wait = api::WaitRequest::new();
    (wait.id, wait.exec_id) = (id.to_string(), exec_id.to_string());
    assert_eq!(task.wait(soon(), &wait).await.expect("an exit").exit_status, 11);
    assert_eq!(std::fs::read_to_string(&out).expect("read"), "hello\n");
    let mut delete = api::DeleteRequest::new();
    (delete.id, delete.exec_id) = (id.to_string(), exec_id.to_string());
    assert_eq!(
        task.delete(soon(), &delete).await.expect("deleted").exit_status,
        11
    );
    task.delete(soon(), &delete).await.expect_err("gone");
    rig.end().await;
}

#[tokio::test]
async fn root_a_container_is_paused_counted_limited_and_its_input_ended() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let id = rig
        .run(&Wish {
            command: &[
                "sh",
                "-c",
                "(n=0; while :; do echo $n; n=$((n+1)); sleep 0.002; done) & cat; exit 8",
            ],
            stdin: true,
            ..Wish::default()
        })
        .await;
    let task = task(&rig).await;
    let mut connect = api::ConnectRequest::new();
    connect.id = id.to_string();
    let connected = task.connect(soon(), &connect).await.expect("connected");
    assert_eq!(i32::try_from(connected.shim_pid).ok(), Some(rig.shim_pid().await));
    eventually("lines", || (rig.lines(&id).len() > 3).then_some(())).await;

    let mut pids = api::PidsRequest::new();
    pids.id = id.to_string();
    let listed = task.pids(soon(), &pids).await.expect("pids").processes;
    assert!(
        listed.iter().any(|process| process.pid == connected.task_pid),
        "{listed:?}"
    );
    let mut pause = api::PauseRequest::new();
    pause.id = id.to_string();
    task.pause(soon(), &pause).await.expect("paused");
    let before = rig.lines(&id).len();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(rig.lines(&id).len() <= before + 1, "it stands still");
    let mut resume = api::ResumeRequest::new();
    resume.id = id.to_string();
    task.resume(soon(), &resume).await.expect("resumed");
    eventually("lines", || (rig.lines(&id).len() > before + 3).then_some(())).await;

    let limits = serde_json::from_value(json!({ "memory": { "limit": 64 << 20 } })).expect("resources");
    rig.shim.update(&id, &limits).await.expect("updated");
    let stats = rig.shim.stats(&id).await.expect("stats");
    assert!(
        stats.pids >= 2 && stats.memory_limit == Some(64 << 20),
        "{stats:?}"
    );

    let mut close = api::CloseIORequest::new();
    (close.id, close.stdin) = (id.to_string(), true);
    task.close_io(soon(), &close).await.expect("closed");
    assert_eq!(
        rig.shim.wait(&id).await.expect("an exit").code,
        8,
        "cat saw the end of its input"
    );
    rig.shim.delete(&id).await.expect("deleted");
    rig.end().await;
}

#[tokio::test]
async fn root_a_terminals_output_is_logged_and_outlives_a_shim() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let command = [
        "sh",
        "-c",
        "echo first; trap 'echo second; exit 2' USR1; while :; do sleep 0.01; done",
    ];
    let request = rig.request(&Wish {
        command: &command,
        terminal: true,
        ..Wish::default()
    });
    let id: ContainerId = request.id.clone();
    rig.shim
        .create(TaskCreate {
            terminal: true,
            ..request
        })
        .await
        .expect("created");
    rig.shim.start(&id).await.expect("started");
    eventually("a line", || {
        rig.lines(&id)
            .contains(&"stdout F first".to_owned())
            .then_some(())
    })
    .await;
    let task = task(&rig).await;
    let mut resize = api::ResizePtyRequest::new();
    (resize.id, resize.width, resize.height) = (id.to_string(), 100, 30);
    task.resize_pty(soon(), &resize).await.expect("resized");

    rig.kill_shim().await;
    rig.shim = rig
        .shims
        .reconnect(&rig.pod, &rig.state)
        .await
        .expect("another shim");
    let signal: Signal = "USR1".parse().expect("a signal");
    rig.shim
        .kill(&id, signal, KillScope::Init)
        .await
        .expect("no SIGHUP came");
    assert_eq!(rig.shim.wait(&id).await.expect("an exit").code, 2);
    assert_eq!(rig.lines(&id), ["stdout F first", "stdout F second"]);
    rig.shim.delete(&id).await.expect("deleted");
    rig.end().await;
}
