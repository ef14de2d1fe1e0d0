//! Restarts and deaths in all their forms: what runs on, what the kubelet sees, what audit finds. Each test
//! prints its row of the table in docs/failures.md. Needs root.

#[path = "restart/records.rs"]
mod records;
#[path = "restart/together.rs"]
mod together;
#[path = "restart/unready.rs"]
mod unready;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_proto::cri;
use coracle_testkit::census::cgroup;
use coracle_testkit::cri::{Container, ContainerSpec, Pod, PodSpec};
use coracle_testkit::node::daemon::program;
use coracle_testkit::node::{Process, Role, by_systemd};
use coracle_testkit::wait;
use coracle_tests::Bed;

/// Longer than a shim may be silent, with some for the taking over.
const PATIENCE: Duration = Duration::from_secs(90);

#[allow(clippy::print_stdout, reason = "the table is what the test is read for")]
fn row(fault: &str, runs: &str, sees: &str, audit: &str) {
    println!("| {fault} | {runs} | {sees} | {audit} |");
}

/// The findings of an audit, a line each; empty when there are none.
fn audit(bed: &Bed) -> Result<String> {
    let path = program()?;
    let path = path.to_str().context("the program's path is no text")?;
    let output = bed.node().output(path, &["audit", "-o", "json"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("audit said {text:?}"))?;
    let empty = found.as_array().is_some_and(Vec::is_empty)
        || found["findings"].as_array().is_some_and(Vec::is_empty)
        || found.as_object().is_some_and(serde_json::Map::is_empty);
    Ok(if empty { String::new() } else { text })
}

fn nothing_found(bed: &Bed) -> Result<()> {
    let found = audit(bed)?;
    ensure!(found.is_empty(), "audit found: {found}");
    Ok(())
}

fn kill(bed: &Bed, role: Role) -> Result<()> {
    bed.daemon.processes(role)?.iter().try_for_each(Process::kill)
}

async fn answers(container: &Container) -> Result<()> {
    wait::until_async("exec to work", PATIENCE, || async {
        Ok(container
            .exec(&["true"])
            .await
            .ok()
            .filter(|output| output.code == 0))
    })
    .await
    .map(|_| ())
}

async fn state(container: &Container) -> Result<cri::ContainerState> {
    Ok(container.status().await?.state())
}

/// The pid of a container's first process, by which it is seen that it is the same one.
async fn first_process(bed: &Bed, container: &Container) -> Result<String> {
    let request = cri::ContainerStatusRequest {
        container_id: container.id().to_owned(),
        verbose: true,
    };
    let answer = bed
        .runtime
        .runtime()
        .container_status(request)
        .await?
        .into_inner();
    Ok(answer.status.unwrap_or_default().started_at.to_string())
}

async fn after_restart(bed: &mut Bed, pod: &Pod, container: &Container) -> Result<(Pod, Container)> {
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    Ok((pod.through(&bed.runtime), container.through(&bed.runtime)))
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_ended_in_each_way() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (mut pod, mut container) = bed.idle_pod("daemon").await?;
    let begun = first_process(&bed, &container).await?;
    for how in ["terminated", "killed"] {
        if how == "killed" {
            bed.daemon.kill9()?;
        } else {
            bed.daemon.terminate()?;
        }
        (pod, container) = after_restart(&mut bed, &pod, &container).await?;
        assert_eq!(pod.status().await?.state(), cri::PodSandboxState::SandboxReady);
        answers(&container).await?;
        assert_eq!(first_process(&bed, &container).await?, begun);
        nothing_found(&bed)?;
        row(&format!("daemon {how}"), "all", "ready, running", "nothing");
    }
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_does_not_come_up_and_then_does() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("start").await?;
    bed.daemon.kill9()?;
    bed.node().write("/etc/coracle/config.toml", "[nonsense\nx = ")?;
    let refused = bed.daemon.start_again().expect_err("an unreadable configuration");
    let words = format!("{refused:#}");
    assert!(words.contains("config.toml"), "{words}");
    // With a socket whose place cannot be: after everything else was opened.
    std::fs::remove_file(bed.node().path("/etc/coracle/config.toml"))?;
    bed.node().write("/run/in-the-way", "")?;
    let arguments = ["--socket", "/run/in-the-way/coracle.sock"].map(str::to_owned);
    bed.daemon.options().arguments = arguments.to_vec();
    assert!(bed.daemon.start_again().is_err());
    bed.daemon.options().arguments = Vec::new();
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    answers(&container).await?;
    nothing_found(&bed)?;
    row(
        "configuration unreadable",
        "all",
        "no answer until it is mended",
        "nothing",
    );
    row(
        "daemon crashed at start-up",
        "all",
        "no answer, then ready, running",
        "nothing",
    );
    std::fs::remove_file(bed.node().path("/run/in-the-way"))?;
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_started_with_a_changed_configuration() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("before").await?;
    let begun = first_process(&bed, &container).await?;
    bed.daemon.kill9()?;
    let instance = bed.node().instance();
    let (elsewhere, name, usual) = if by_systemd() {
        let slice = |name: &str| format!("{instance}-{name}.slice");
        (slice("elsewhere"), slice("elsewhere"), slice("pods"))
    } else {
        let path = format!("/{instance}/elsewhere");
        (path, "elsewhere".to_owned(), "pods".to_owned())
    };
    let changed = format!(
        "[cgroup]\ndefault_parent = \"{elsewhere}\"\n[container]\npids_limit = 77\n[exec]\nmax_output = 5\n"
    );
    bed.node().write("/etc/coracle/config.toml", changed)?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    assert_eq!(pod.status().await?.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(first_process(&bed, &container).await?, begun);
    assert_eq!(container.exec(&["echo", "cut here"]).await?.stdout, "cut h");
    nothing_found(&bed)?;
    // Pods to come are by the new one, those of before are taken away where they are.
    let (after, inside) = bed.idle_pod("after").await?;
    let groups = cgroup::of_instance(bed.node())?;
    let of = |container: &Container| {
        groups
            .iter()
            .find(|group| cgroup::is_of(group, container.id()))
            .cloned()
    };
    let place = of(&inside).context("no cgroup")?;
    assert!(
        place.parent().is_some_and(|parent| parent.ends_with(&name)),
        "{place:?}"
    );
    let limits = groups.iter().filter(|group| cgroup::is_of(group, inside.id()));
    let limits: Vec<String> = limits
        .flat_map(|group| std::fs::read_to_string(group.join("pids.max")))
        .collect();
    assert_eq!(limits, ["77\n"]);
    let old = of(&container).context("no cgroup")?;
    assert!(
        old.parent().is_some_and(|parent| parent.ends_with(&usual)),
        "{old:?}"
    );
    row(
        "daemon started with a changed configuration",
        "all",
        "ready, running; what comes is by the new configuration",
        "nothing",
    );
    after.remove().await?;
    pod.remove().await?;
    nothing_found(&bed)?;
    std::fs::remove_file(bed.node().path("/etc/coracle/config.toml"))?;
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    // A default parent is the instance's own and stays, empty, as the first one does.
    for group in cgroup::of_instance(bed.node())?
        .iter()
        .filter(|group| group.ends_with(&name))
    {
        if by_systemd() {
            bed.node().run("systemctl", &["stop", &name])?;
        } else {
            std::fs::remove_dir(group)?;
        }
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn shim_killed_and_hung() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("shim").await?;
    let begun = first_process(&bed, &container).await?;
    kill(&bed, Role::Shim)?;
    answers(&container).await?;
    assert_eq!(first_process(&bed, &container).await?, begun);
    nothing_found(&bed)?;
    row("shim killed", "all", "ready, running", "nothing");

    let hung = bed.daemon.processes(Role::Shim)?;
    let (other, beside) = bed.idle_pod("beside").await?;
    hung.iter().try_for_each(Process::suspend)?;
    answers(&beside).await?;
    other.remove().await?;
    // The stop meets the hung shim: it is killed, and another one carries the stop out.
    pod.stop().await?;
    assert_eq!(state(&container).await?, cri::ContainerState::ContainerExited);
    nothing_found(&bed)?;
    row(
        "shim hangs (SIGSTOP)",
        "all; it is killed 15 s after it was asked, 90 s when nobody asks",
        "calls of its pod wait that long, others do not",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keeper_killed() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("keeper").await?;
    kill(&bed, Role::Keeper)?;
    answers(&container).await?;
    let found = audit(&bed)?;
    assert!(found.contains("keeper"), "{found}");
    let (other, _) = bed.idle_pod("after").await?;
    nothing_found(&bed)?;
    row(
        "keeper killed",
        "all",
        "ready, running",
        "keeper missing, until the next pod starts",
    );
    other.remove().await?;
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_ends_with_its_shim_and_with_its_client() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("exec").await?;
    let here = |mark: &str| -> Result<bool> {
        Ok(bed
            .node()
            .processes()?
            .iter()
            .any(|process| process.title().contains(mark)))
    };
    let begin = |mark: &'static str| {
        let container = container.clone();
        tokio::spawn(async move { container.exec_for(&["sleep", mark], Duration::ZERO).await })
    };
    let gone =
        |mark: &'static str| wait::until("the exec's end", PATIENCE, || Ok((!here(mark)?).then_some(())));
    let there = |mark: &'static str| wait::until("the exec", PATIENCE, || Ok(here(mark)?.then_some(())));

    let client = begin("98761");
    there("98761")?;
    client.abort();
    gone("98761")?;
    row(
        "client of an ExecSync leaves",
        "all but the exec, which is killed",
        "-",
        "nothing",
    );

    let client = begin("98762");
    there("98762")?;
    kill(&bed, Role::Shim)?;
    assert!(client.await?.is_err());
    gone("98762")?;
    answers(&container).await?;
    row(
        "shim killed under an exec",
        "all but the exec, which is killed",
        "the exec fails",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_on_a_full_state_directory() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("full").await?;
    let shell = |script: &str| bed.node().run("sh", &["-c", script]);
    shell("mount -o remount,size=3m /run; dd if=/dev/zero of=/run/fill bs=4k 2>/dev/null; true")?;
    let refused = bed.runtime.run_pod(PodSpec::new("none")).await;
    let refused = refused.expect_err("there is no space");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    answers(&container).await?;
    pod.stop().await?;
    shell("rm /run/fill; mount -o remount,size=50% /run")?;
    nothing_found(&bed)?;
    row(
        "state directory full",
        "all",
        "new pods refused (ResourceExhausted); exec, stop and removal work",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot() -> Result<()> {
    let mut bed = Bed::make().await?;
    let script = "echo famous last words; exec sleep 100000";
    let pod = bed.runtime.run_pod(PodSpec::new("boot")).await?;
    let container = pod
        .run(&ContainerSpec::script("boot", &bed.busybox, script))
        .await?;
    container.logged("famous last words").await?;
    let address = pod.ip().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    bed.daemon.terminate()?;
    reboot(&bed)?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    assert_eq!(pod.status().await?.state(), cri::PodSandboxState::SandboxNotready);
    let status = container.status().await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert!(status.message.contains("famous last words"), "{}", status.message);
    nothing_found(&bed)?;
    // Another start tells the same end.
    bed.daemon.kill9()?;
    let (pod, container) = after_restart(&mut bed, &pod, &container).await?;
    assert_eq!(container.status().await?.finished_at, status.finished_at);
    let again = PodSpec::new("boot").with(|config| {
        let old = pod.config().metadata.clone().unwrap_or_default();
        config.metadata = Some(cri::PodSandboxMetadata { attempt: 1, ..old });
    });
    let again = bed.runtime.run_pod(again).await?;
    assert_ne!(again.ip().await?, "", "no address");
    row(
        "reboot",
        "nothing",
        "pods not ready; containers exited, 255 `Unknown`, with the log's last line; addresses are free again",
        "nothing",
    );
    let reserved = format!("/var/lib/cni/networks/pods/{address}");
    assert!(again.ip().await? == address || !bed.node().path(&reserved).exists());
    again.remove().await?;
    pod.remove().await?;
    bed.node().run("umount", &["/proc/sys/kernel/random/boot_id"])?;
    std::fs::remove_file(bed.node().path("/run/boot_id"))?;
    bed.leave().await
}

/// What a reboot does to a node, as far as a node that is no machine can have it: no process lives, tmpfs,
/// namespaces, links and cgroups are empty, the kernel names another boot.
fn reboot(bed: &Bed) -> Result<()> {
    let node = bed.node();
    for process in node.processes()? {
        if !process.title().contains("registry") {
            process.kill()?;
        }
    }
    wait::until("the end of all processes", PATIENCE, || {
        let left = node
            .processes()?
            .into_iter()
            .filter(|process| process.role != Role::Other)
            .count();
        Ok((left == 0).then_some(()))
    })?;
    let script = "for mount in $(awk '$5 ~ \"^/run/\" && $5 !~ \"^/run/(systemd|dbus)\" {print $5}' /proc/self/mountinfo | sort -r); do umount -l $mount; done
        rm -rf /run/coracle /run/netns/*
        for link in $(ls /sys/class/net); do [ $link = lo ] || ip link delete $link 2>/dev/null; done
        nft flush ruleset
        cat /proc/sys/kernel/random/uuid > /run/boot_id
        mount --bind /run/boot_id /proc/sys/kernel/random/boot_id";
    node.run("sh", &["-c", script])?;
    if by_systemd() {
        node.run("systemctl", &["stop", &format!("{}.slice", node.instance())])?;
    }
    let mut groups = cgroup::of_instance(node)?;
    groups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for group in groups {
        wait::until("an empty cgroup", PATIENCE, || {
            Ok(matches!(std::fs::remove_dir(&group), Ok(()))
                .then_some(())
                .or((!group.exists()).then_some(())))
        })?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_removed_by_hand_are_found() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, _container) = bed.idle_pod("hand").await?;
    nothing_found(&bed)?;
    let netns = format!("{}-{}", bed.node().instance(), pod.id());
    bed.node().run("ip", &["netns", "delete", &netns])?;
    let found = audit(&bed)?;
    assert!(found.contains("netns") && found.contains(pod.id()), "{found}");
    row(
        "network namespace removed by hand",
        "all",
        "ready",
        "netns missing, with the pod",
    );
    pod.remove().await?;
    let (pod, _container) = bed.idle_pod("link").await?;
    bed.node().run("ip", &["link", "delete", "cni0"])?;
    let found = audit(&bed)?;
    assert!(
        found.contains("network attachment") && found.contains(pod.id()),
        "{found}"
    );
    row(
        "bridge removed by hand",
        "all, cut off",
        "ready",
        "network attachment missing, with the pod",
    );
    pod.remove().await?;
    let (pod, _container) = bed.idle_pod("again").await?;
    pod.remove().await?;
    nothing_found(&bed)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_on_one_directory() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("first").await?;
    let mut second: Command = bed.node().command(program()?);
    second
        .args(["serve", "--instance", "another", "--root"])
        .arg(bed.node().root());
    second.args(["--state", "/run/another", "--socket", "/run/another/x.sock"]);
    let output = second.output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && words.contains("another daemon"),
        "{words}"
    );
    std::fs::remove_file(bed.node().path("/run/coracle-instances/another.lock"))?;
    answers(&container).await?;
    row(
        "a second daemon on the directory",
        "all",
        "ready, running; the second leaves in words",
        "nothing",
    );
    pod.remove().await?;
    bed.leave().await
}
