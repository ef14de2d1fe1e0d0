//! A shim is killed, or its keeper, and the pod goes on.

use std::time::{Duration, Instant};

use coracle_task::{KillScope, TaskState};
use coracle_types::signal::Signal;
use coracle_types::{Kind, Kinded as _};

use crate::rig::{Rig, Wish, eventually, exec, is_root, kill};

#[tokio::test]
async fn root_a_killed_shims_pod_is_adopted() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let writing = rig
        .shell("n=0; while :; do echo $n; n=$((n+1)); sleep 0.002; done")
        .await;
    let ending = rig
        .run(&Wish {
            command: &["sh", "-c", "read x; exit 5"],
            stdin: true,
            ..Wish::default()
        })
        .await;
    let ended = rig.shell("exit 4").await;
    let exit = rig.shim.wait(&ended).await.expect("an exit");
    let request = rig.request(&Wish {
        command: &["echo", "late"],
        ..Wish::default()
    });
    let created = request.id.clone();
    rig.shim.create(request).await.expect("created");
    let dying = rig.shell("sleep 0.2; exit 6").await;
    eventually("lines", || (rig.lines(&writing).len() > 5).then_some(())).await;

    let waiting = tokio::spawn({
        let (shim, id) = (rig.shim.clone(), ending.clone());
        async move { shim.wait(&id).await }
    });
    rig.kill_shim().await;
    assert_eq!(
        waiting
            .await
            .expect("joined")
            .expect_err("the shim is gone")
            .kind(),
        Kind::Unavailable
    );
    // It ends while nobody is there.
    tokio::time::sleep(Duration::from_millis(300)).await;

    rig.shim = rig
        .shims
        .reconnect(&rig.pod, &rig.state)
        .await
        .expect("another shim");
    assert_eq!(
        rig.shim.state(&ended).await.expect("state"),
        TaskState::Exited(exit)
    );
    assert_eq!(rig.shim.wait(&dying).await.expect("an exit").code, 6);
    assert_eq!(rig.shim.state(&writing).await.expect("state"), TaskState::Running);
    let before = rig.lines(&writing).len();
    eventually("the log to go on", || {
        (rig.lines(&writing).len() > before + 5).then_some(())
    })
    .await;
    let output = rig
        .shim
        .exec_sync(&writing, exec(&["echo", "hello"]))
        .await
        .expect("an exec");
    assert_eq!(output.stdout, b"hello\n");
    assert_eq!(rig.shim.state(&created).await.expect("state"), TaskState::Created);
    rig.shim.start(&created).await.expect("started by another");
    assert_eq!(rig.shim.wait(&created).await.expect("an exit").code, 0);
    assert_eq!(rig.lines(&created), ["stdout F late"]);
    assert_eq!(
        rig.shim.state(&ending).await.expect("its stdin was held"),
        TaskState::Running
    );
    rig.shim
        .kill(&ending, Signal::TERM, KillScope::All)
        .await
        .expect("signalled");
    rig.shim
        .kill(&ending, Signal::KILL, KillScope::Init)
        .await
        .expect("killed");
    assert_eq!(rig.shim.wait(&ending).await.expect("an exit").code, 137);
    rig.shim
        .kill(&writing, Signal::KILL, KillScope::Init)
        .await
        .expect("killed");
    assert_eq!(rig.shim.wait(&writing).await.expect("an exit").code, 137);
    // What a reader had taken and not yet written goes with it, at most what it read at once.
    let numbers: Vec<u64> = rig
        .lines(&writing)
        .iter()
        .filter_map(|line| line.strip_prefix("stdout F ")?.parse().ok())
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "no line comes twice"
    );
    for id in [&writing, &ending, &ended, &created, &dying] {
        rig.shim.delete(id).await.expect("deleted");
    }
    rig.end().await;
}

#[tokio::test]
async fn root_a_pod_outlives_its_keeper_and_then_its_shim() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let id = rig
        .shell("n=0; while :; do echo $n; n=$((n+1)); sleep 0.002; done")
        .await;
    let old = rig.keeper().status().expect("status").pid;
    kill(old);
    eventually("its death", || rig.keeper_is_gone().then_some(())).await;
    let before = rig.lines(&id).len();
    eventually("the log to go on", || {
        (rig.lines(&id).len() > before + 5).then_some(())
    })
    .await;
    rig.shim.exec_sync(&id, exec(&["true"])).await.expect("an exec");
    // The next launch finds no keeper, starts one, and living shims deposit with it.
    let other = coracle_types::PodSandboxId::generate();
    let state = rig.path("pods").join(other.as_str());
    std::fs::create_dir(&state).expect("state");
    let neighbour = rig.shims.launch(&other, &state).await.expect("a shim");
    assert_ne!(rig.keeper().status().expect("status").pid, old);
    eventually("the deposits", || {
        (rig.keeper().keys(&rig.pod).ok()?.len() >= 2).then_some(())
    })
    .await;
    neighbour.shutdown().await.expect("shut down");

    rig.kill_shim().await;
    rig.shim = rig
        .shims
        .reconnect(&rig.pod, &rig.state)
        .await
        .expect("another shim");
    let before = rig.lines(&id).len();
    eventually("the log to go on", || {
        (rig.lines(&id).len() > before + 5).then_some(())
    })
    .await;
    rig.shim
        .kill(&id, Signal::KILL, KillScope::Init)
        .await
        .expect("killed");
    let exit = rig.shim.wait(&id).await.expect("an exit");
    // From Linux 6.15 on the kernel keeps the code for whoever holds a pidfd.
    assert!([137, 255].contains(&exit.code), "{exit:?}");
    rig.shim.delete(&id).await.expect("deleted");
    rig.end().await;
}

#[tokio::test]
async fn root_a_killed_shims_sandbox_is_adopted_and_taken_away() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let mut request = crate::life::sandbox(&rig);
    request.namespaces.pid = true;
    let init = rig
        .shim
        .create_sandbox(request)
        .await
        .expect("a sandbox")
        .init
        .expect("an init");
    rig.kill_shim().await;
    rig.shim = rig
        .shims
        .reconnect(&rig.pod, &rig.state)
        .await
        .expect("another shim");
    let again = rig
        .shim
        .create_sandbox(crate::life::sandbox(&rig))
        .await
        .expect_err("there is one");
    assert_eq!(again.kind(), Kind::AlreadyExists);
    // Killed once more: an adopted pod is adopted again.
    rig.kill_shim().await;
    rig.shim = rig
        .shims
        .reconnect(&rig.pod, &rig.state)
        .await
        .expect("another shim");
    rig.shim.stop_sandbox().await.expect("stopped");
    assert!(
        !std::path::Path::new(&format!("/proc/{init}/exe")).exists(),
        "its init is dead"
    );
    for pin in ["ns/ipc", "ns/uts", "ns/pid", "shm"] {
        assert!(!rig.path(pin).exists(), "{pin} is left");
    }
    rig.end().await;
}

#[tokio::test]
async fn root_containers_and_execs_come_and_go_without_a_trace_in_shim_and_keeper() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let (shim, keeper) = (rig.shim_pid().await, rig.keeper().status().expect("status").pid);
    let turn = async || {
        let id = rig.shell("echo up; sleep 1000").await;
        rig.shim
            .exec_sync(&id, exec(&["echo", "x"]))
            .await
            .expect("an exec");
        rig.shim
            .kill(&id, Signal::KILL, KillScope::All)
            .await
            .expect("killed");
        rig.shim.wait(&id).await.expect("an exit");
        rig.shim.delete(&id).await.expect("deleted");
    };
    for _ in 0..20 {
        turn().await;
    }
    let before = (held(shim), held(keeper));
    let memory = (resident(shim), resident(keeper));
    for _ in 0..60 {
        turn().await;
    }
    assert_eq!((held(shim), held(keeper)), before, "descriptors and threads");
    let after = (resident(shim), resident(keeper));
    assert!(
        after.0 <= memory.0 + 128 && after.1 <= memory.1 + 64,
        "{memory:?} kB became {after:?}"
    );
    rig.end().await;
}

/// Descriptors and threads of a process.
fn held(pid: i32) -> (usize, usize) {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{pid}/{what}"))
            .expect("/proc")
            .count()
    };
    (count("fd"), count("task"))
}

/// kB of memory that is its own: clean pages of the program count as private only while nobody else runs it.
fn resident(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("/proc");
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a number")
}

/// Prints what a shim costs; asserts nothing about time.
#[tokio::test]
async fn root_a_shim_serves_soon_and_weighs_little() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut launches = Vec::new();
    let mut shims = Vec::new();
    for _ in 0..20 {
        let pod = coracle_types::PodSandboxId::generate();
        let state = rig.path("pods").join(pod.as_str());
        std::fs::create_dir(&state).expect("state");
        let begin = Instant::now();
        let shim = rig.shims.launch(&pod, &state).await.expect("a shim");
        let unknown = shim
            .state(&coracle_types::ContainerId::generate())
            .await
            .expect_err("not there");
        launches.push(begin.elapsed());
        assert_eq!(unknown.kind(), Kind::NotFound);
        shims.push((pod, shim));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    launches.sort();
    let mut weights: Vec<u64> = shims
        .iter()
        .filter_map(|(pod, _)| {
            let pid = crate::rig::process_with(&format!("coracle-shim {}", pod.short()))?;
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            rollup.lines().find_map(|line| {
                line.strip_prefix("Pss:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
        })
        .collect();
    weights.sort_unstable();
    println!(
        "launch to first answer: p50 {:?}, p90 {:?}",
        launches[10], launches[18]
    );
    println!("PSS of a shim among 20: p50 {} kB", weights[weights.len() / 2]);
    for (_, shim) in shims {
        shim.shutdown().await.expect("shut down");
    }
    rig.end().await;
}
