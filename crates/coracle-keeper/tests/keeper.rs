//! The keeper as a process: what it holds, what it reaps, when it leaves.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle_keeper::client::Keeper;
use coracle_keeper::{DepositKey, KeeperConfig, OrphanExit, Program};
use coracle_types::{Instance, Kind, Kinded as _, PodSandboxId};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(runtime_dir: &Path, cgroup: &str) -> KeeperConfig {
    KeeperConfig {
        runtime_dir: runtime_dir.into(),
        cgroup: cgroup.into(),
        instance: Instance::default(),
        program: Program {
            executable: env!("CARGO_BIN_EXE_keeper-roles").into(),
            role: vec!["keeper".into()],
        },
    }
}

fn key(text: &str) -> DepositKey {
    text.parse().expect("a key")
}

/// Waits for what is only a matter of time.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

fn child_of(state: &Path) -> i32 {
    eventually("the shim", || {
        std::fs::read_to_string(state.join("up")).ok()?.parse().ok()
    })
}

#[test]
fn orphans_and_descriptors_of_a_dead_shim_are_kept_until_taken() {
    let run = tempfile::tempdir().expect("a directory");
    let keeper = Keeper::ensure(&config(run.path(), "")).expect("a keeper");
    let pod = PodSandboxId::generate();
    let state = run.path().join("pod");
    std::fs::create_dir(&state).expect("state");

    let shim = keeper.spawn_shim(&pod, &state, "").expect("a shim");
    let refused = keeper.spawn_shim(&pod, &state, "").expect_err("one a pod");
    assert_eq!(refused.kind(), Kind::AlreadyExists);
    child_of(&state);
    assert_eq!(keeper.keys(&pod).expect("keys"), vec![key("child"), key("pipe")]);
    let title = std::fs::read_to_string(format!("/proc/{shim}/cmdline")).expect("its title");
    assert!(
        title.starts_with(&format!("coracle-shim {}", pod.short())),
        "{title:?}"
    );

    kill(shim);
    // The pipe is held, so the child lives; it ends when it reads a byte, and its code is kept.
    assert_eq!(keeper.orphan_exit(&pod, &key("child")).expect("asked"), None);
    let pipe = keeper.copy(&pod, &key("pipe")).expect("a copy").remove(0);
    std::fs::File::from(pipe).write_all(b"x").expect("write");
    let exit = eventually("the orphan", || {
        keeper.orphan_exit(&pod, &key("child")).expect("asked")
    });
    assert!(matches!(exit, OrphanExit { code: 7, .. }), "{exit:?}");
    assert_eq!(
        keeper.orphan_exit(&pod, &key("child")).expect("asked"),
        None,
        "told once"
    );

    // A dead shim is not in the way of the next.
    let next = keeper.spawn_shim(&pod, &state, "").expect("another shim");
    assert_ne!(next, shim);
    keeper.retire().expect("told");
    assert_eq!(keeper.status().expect("it stays for its pod").shims, 1);
    kill(next);
    keeper.forget(&pod).expect("forget");
    eventually("the keeper to leave", || keeper.status().is_err().then_some(()));
    let left: Vec<_> = std::fs::read_dir(run.path().join("keeper"))
        .expect("its directory")
        .flatten()
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "sock")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn there_is_one_keeper_a_program_and_it_is_found_again() {
    let run = tempfile::tempdir().expect("a directory");
    let first = Keeper::ensure(&config(run.path(), ""))
        .expect("a keeper")
        .status()
        .expect("status");
    let again = Keeper::ensure(&config(run.path(), "")).expect("the same");
    assert_eq!(again.status().expect("status").pid, first.pid);
    kill(first.pid);
    let anew = eventually("its death", || {
        let keeper = Keeper::ensure(&config(run.path(), "")).ok()?;
        (keeper.status().ok()?.pid != first.pid).then_some(keeper)
    });
    anew.retire().expect("told");
}

#[test]
fn nonsense_is_answered_and_not_believed() {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let run = tempfile::tempdir().expect("a directory");
    let keeper = Keeper::ensure(&config(run.path(), "")).expect("a keeper");
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("socket");
    rustix::net::connect(&socket, &SocketAddrUnix::new(keeper.socket()).expect("address")).expect("connect");
    let mut answer = vec![0_u8; 4096];
    for nonsense in [
        &b"{"[..],
        b"[]",
        b"\"what\"",
        br#"{"copy":{"pod":"../x","key":"a"}}"#,
    ] {
        rustix::net::send(&socket, nonsense, SendFlags::NOSIGNAL).expect("send");
        let (length, _) =
            rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty()).expect("an answer");
        assert!(String::from_utf8_lossy(&answer[..length]).contains("failed"));
    }
    // A packet beyond the limit costs the connection and nothing else.
    let _ = rustix::net::send(&socket, &vec![b' '; 100_000], SendFlags::NOSIGNAL);
    assert!(keeper.status().is_ok());
    let nothing = keeper
        .copy(&PodSandboxId::generate(), &key("a"))
        .expect_err("nothing there");
    assert_eq!(nothing.kind(), Kind::NotFound);
    keeper.retire().expect("told");
}

#[test]
fn as_root_the_keeper_lives_in_its_cgroup_and_takes_it_along() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let run = tempfile::tempdir().expect("a directory");
    let cgroup = format!("/coracle-test-keeper-{}", std::process::id());
    let keeper = Keeper::ensure(&config(run.path(), &cgroup)).expect("a keeper");
    let pid = keeper.status().expect("status").pid;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    assert!(cgroups.lines().all(|line| line.ends_with(&cgroup)), "{cgroups}");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("its program");
    let writable = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/exe"));
    let error = writable.expect_err("the program's file cannot be opened for writing");
    assert_eq!(
        error.raw_os_error(),
        Some(30),
        "{} is read-only: {error}",
        program.display()
    );
    keeper.retire().expect("told");
    eventually("the keeper to leave", || keeper.status().is_err().then_some(()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let point = mount.split(' ').nth(4).expect("a mount point");
        assert!(
            !Path::new(&format!("{point}{cgroup}")).exists(),
            "{point}{cgroup} is left"
        );
    }
}
