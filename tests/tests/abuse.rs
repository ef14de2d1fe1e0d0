//! Hostile containers, images and clients: refused in words, nothing touched, nothing left. Needs root.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, Image, ImageBuilder, digest};
use coracle_testkit::measure::rss;
use coracle_testkit::node::{DaemonOptions, Role, daemon};
use coracle_testkit::wait;
use coracle_tests::checks::refused;
use coracle_tests::{Bed, Plan};
use tonic::Code;

/// What a refusal may be.
const REFUSED: [Code; 6] = [
    Code::InvalidArgument,
    Code::FailedPrecondition,
    Code::OutOfRange,
    Code::ResourceExhausted,
    Code::Unknown,
    Code::NotFound,
];

/// The attacker and the shell it needs.
fn attacker_image() -> Result<Image> {
    let attacker = std::fs::read(env!("CARGO_BIN_EXE_attacker"))?;
    let layer = busybox_root()?
        .file("/attacker", 0o755, attacker)
        // The kernel runs the interpreter that it finds in /proc/self/exe: the runtime's own program,
        // if that is what the process is when it executes this file.
        .file("/reflect", 0o755, "#!/proc/self/exe\n");
    Ok(ImageBuilder::new()
        .layer(layer.build(), Compression::Gzip)
        .env("PATH=/bin")
        .build())
}

fn attacker(name: &str, image: &str, seconds: &str) -> ContainerSpec {
    ContainerSpec::new(name, image, &["/attacker", seconds]).security(|security| {
        security.namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Pod.into();
        // Nothing but the runtime itself must be in its way.
        let unconfined = cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Unconfined.into(),
            ..Default::default()
        };
        security.seccomp = Some(unconfined.clone());
        security.apparmor = Some(unconfined);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtimes_program_cannot_be_written_from_a_container() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // A copy, which may be lost; and two more for the controls below.
    let [program, plain, bound] = ["coracle", "plain", "bound"].map(|name| directory.path().join(name));
    for copy in [&program, &plain, &bound] {
        std::fs::copy(daemon::program()?, copy)?;
    }
    let before = digest(&std::fs::read(&program)?);
    let daemon = DaemonOptions {
        program: Some(program.clone()),
        ..DaemonOptions::default()
    };
    let mut bed = Bed::planned(Plan {
        daemon,
        subnet: Some("10.90.0.0/16"),
    })
    .await?;
    let image = bed.pull(&attacker_image()?, "attacker").await?;
    let pod = bed.runtime.run_pod(PodSpec::new("attack").shared_pids()).await?;
    let report = directory.path().join("report");
    std::fs::create_dir(&report)?;
    // Longer than all below takes: it is told when to stop.
    let seconds = wait::patient(Duration::from_secs(120)).as_secs().to_string();
    pod.run(&attacker("attacker", &image, &seconds).bind(&report, "/report"))
        .await?;
    let victim = ContainerSpec::idle("victim", &image).security(|security| {
        security.namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Pod.into();
    });
    let victim = pod.run(&victim).await?;
    // Starts and execs, each of which is for a moment a process of the runtime inside the pod.
    for number in 0..40 {
        let name = format!("reflect-{number}");
        let reflect = attacker(&name, &image, "0").with(|config| config.command = vec!["/reflect".into()]);
        // It may be refused or may fail: what matters is the program.
        if let Ok(container) = pod.create(&reflect).await {
            let _ = container.start().await;
        }
        let _ = victim.exec(&["/reflect"]).await;
        let _ = victim.exec(&["true"]).await;
    }
    // The controls: a program of the host enters the pod without any defence, and from a read-only bind
    // mount, and is written. Were they not, the test would prove nothing.
    let weakened = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"];
    run_in_pod(&bed, &weakened, &plain).await?;
    run_in_pod(&bed, &[env!("CARGO_BIN_EXE_attacker"), "run-read-only"], &bound).await?;
    // A program that is executed by nobody is not busy: so the runtime dies, while the attack goes on
    // with what it holds. Only then it is seen that the file itself cannot be written.
    bed.daemon.kill9()?;
    for process in bed.node().processes()? {
        if process.role != Role::Other {
            process.kill()?;
        }
    }
    tokio::time::sleep(wait::patient(Duration::from_secs(1))).await;
    std::fs::write(report.join("stop"), "")?;
    let said = wait::until("the end of the attack", Duration::from_secs(30), || {
        let said = std::fs::read_to_string(report.join("said")).unwrap_or_default();
        Ok(said.ends_with("done\n").then_some(said))
    })?;
    for control in [&plain, &bound] {
        let now = digest(&std::fs::read(control)?);
        assert_ne!(
            now,
            before,
            "{} was not written, so this is no attack: {said}",
            control.display()
        );
    }
    assert_eq!(
        digest(&std::fs::read(&program)?),
        before,
        "the program was written: {said}"
    );
    println!("the attacker:\n{said}");
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    pod.through(&bed.runtime).remove().await?;
    bed.runtime.remove_image(&image).await?;
    bed.leave().await
}

/// Runs a program of the host in the attacker's PID namespace for a moment, as weak as the attacker: the
/// kernel hides the program of a stronger process (cap_ptrace_access_check).
async fn run_in_pod(bed: &Bed, by: &[&str], program: &Path) -> Result<()> {
    let init = host_pid(bed, "/attacker").context("the attacker does not run")?;
    let mut entered = std::process::Command::new("nsenter")
        .args([&format!("--target={init}"), "--pid", "--"])
        .args(by)
        .arg(program)
        .args(["demo-page", "--port", "18080"])
        .spawn()?;
    tokio::time::sleep(wait::patient(Duration::from_millis(500))).await;
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", entered.id()))?;
    for pid in children
        .split_whitespace()
        .filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
    {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    entered.wait()?;
    // For the attacker, who tries all the time.
    tokio::time::sleep(wait::patient(Duration::from_millis(500))).await;
    Ok(())
}

/// The host's pid of the node's process that runs this program.
fn host_pid(bed: &Bed, program: &str) -> Option<u32> {
    let found = bed
        .node()
        .processes()
        .ok()?
        .into_iter()
        .find(|process| process.title().starts_with(program))?;
    let own = std::fs::read_link(found.directory.join("ns/pid")).ok()?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let same = std::fs::read_link(entry.path().join("ns/pid")).ok()? == own;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (same && command.starts_with(program)).then_some(pid)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn working_directories_lead_to_no_leaked_descriptor() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("descriptors")).await?;
    for number in 0..40 {
        let spec = ContainerSpec::script(
            &format!("cwd-{number}"),
            &bed.busybox,
            "ls ../../../../.. | tr '\\n' ' '; ls /proc/self/fd | wc -l",
        )
        .with(|config| config.working_dir = format!("/proc/self/fd/{number}"));
        let Ok(container) = pod.create(&spec).await else {
            continue;
        };
        if container.start().await.is_ok() {
            container.exited().await?;
            let text: String = container.log_lines()?.into_iter().map(|line| line.2).collect();
            assert!(
                !text.contains("lost+found") && !text.contains("boot"),
                "{number}: the host's root is reached: {text}"
            );
        }
        container.remove().await?;
    }
    // `ls` opens the directory itself, so 0, 1, 2 and that one.
    let container = pod.run(&ContainerSpec::idle("plain", &bed.busybox)).await?;
    assert_eq!(
        container
            .exec(&["sh", "-c", "ls /proc/self/fd | wc -l; ls /proc/1/fd | wc -l"])
            .await?
            .stdout,
        "4\n3\n"
    );
    pod.remove().await?;
    bed.leave().await
}

fn bad_pods(long: &str) -> Vec<(&'static str, PodSpec)> {
    vec![
        (
            "no metadata",
            PodSpec::new("x").with(|config| config.metadata = None),
        ),
        ("empty name", PodSpec::new("")),
        ("name with a slash", PodSpec::new("../../x")),
        (
            "hostname with a newline",
            PodSpec::new("x").with(|config| config.hostname = "a\nb".into()),
        ),
        (
            "long hostname",
            PodSpec::new("x").with(|config| config.hostname = long.to_owned()),
        ),
        (
            "sysctl value with a newline",
            PodSpec::new("x").linux(|linux| {
                linux
                    .sysctls
                    .insert("net.ipv4.ip_forward".into(), "1\nkernel.core_pattern=|/x".into());
            }),
        ),
        (
            "sysctl of the host",
            PodSpec::new("x").linux(|linux| {
                linux.sysctls.insert("kernel.core_pattern".into(), "x".into());
            }),
        ),
        (
            "sysctl by traversal",
            PodSpec::new("x").linux(|linux| {
                linux
                    .sysctls
                    .insert("net/../kernel.core_pattern".into(), "x".into());
            }),
        ),
        (
            "cgroup parent by traversal",
            PodSpec::new("x").linux(|linux| linux.cgroup_parent = "/../../x".into()),
        ),
        (
            "name server that is none",
            PodSpec::new("x").with(|config| {
                config.dns_config = Some(cri::DnsConfig {
                    servers: vec!["1.1.1.1\noptions x".into()],
                    ..Default::default()
                });
            }),
        ),
        (
            "port out of range",
            PodSpec::new("x").with(|config| {
                config.port_mappings = vec![cri::PortMapping {
                    container_port: 80,
                    host_port: 70_000,
                    ..Default::default()
                }];
            }),
        ),
    ]
}

fn bad_containers(busybox: &str) -> Vec<(&'static str, ContainerSpec)> {
    let idle = || ContainerSpec::idle("bad", busybox);
    vec![
        ("no image", idle().with(|config| config.image = None)),
        (
            "absent image",
            ContainerSpec::idle("bad", "registry.test/absent:1"),
        ),
        ("no metadata", idle().with(|config| config.metadata = None)),
        (
            "log path by traversal",
            idle().with(|config| config.log_path = "../../../x.log".into()),
        ),
        ("variable with a zero byte", idle().env("A", b"a\0b".to_vec())),
        ("variable without a name", idle().env("", "x")),
        ("relative mount", idle().bind(Path::new("/tmp"), "relative")),
        (
            "mount out of the root",
            idle().bind(Path::new("/tmp"), "/../../x/../.."),
        ),
        ("relative source", idle().bind(Path::new("relative"), "/x")),
        (
            "unknown capability",
            idle().security(|security| {
                security.capabilities = Some(cri::Capability {
                    add_capabilities: vec!["NO_SUCH".into()],
                    ..Default::default()
                });
            }),
        ),
        (
            "group without user",
            idle().security(|security| security.run_as_group = Some(cri::Int64Value { value: 5 })),
        ),
        (
            "negative user",
            idle().security(|security| security.run_as_user = Some(cri::Int64Value { value: -5 })),
        ),
        (
            "large user",
            idle().security(|security| security.run_as_user = Some(cri::Int64Value { value: 1 << 40 })),
        ),
        (
            "absent seccomp profile",
            idle().security(|security| {
                security.seccomp = Some(cri::SecurityProfile {
                    profile_type: cri::security_profile::ProfileType::Localhost.into(),
                    localhost_ref: "/no/such/profile.json".into(),
                });
            }),
        ),
        (
            "absent device",
            idle().with(|config| {
                config.devices = vec![cri::Device {
                    host_path: "/dev/no-such".into(),
                    container_path: "/dev/x".into(),
                    permissions: "rwm".into(),
                }];
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_in_words_and_leave_nothing() -> Result<()> {
    let bed = Bed::make().await?;
    let long = "x".repeat(70_000);
    for (what, spec) in bad_pods(&long) {
        refused(
            what,
            bed.runtime.run_pod(spec).await.map(|pod| pod.id().to_owned()),
            &REFUSED,
        );
    }
    let mut handler = PodSpec::new("x");
    handler.handler = "no-such-handler".into();
    refused(
        "unknown handler",
        bed.runtime.run_pod(handler).await.map(|_| ()),
        &REFUSED,
    );

    let pod = bed.runtime.run_pod(PodSpec::new("good")).await?;
    for (what, spec) in bad_containers(&bed.busybox) {
        let answer = pod.create(&spec).await;
        refused(what, answer.map(|container| container.id().to_owned()), &REFUSED);
    }
    for id in ["", "../x", "short", &long] {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        refused(
            "status",
            bed.runtime.runtime().container_status(request).await,
            &[Code::NotFound, Code::InvalidArgument],
        );
    }
    for image in [
        "",
        "UPPER/case",
        "a b",
        "../../etc/passwd",
        "x@sha256:../..",
        "registry.test/x:..",
        &long,
    ] {
        refused(
            &image[..image.len().min(20)],
            bed.runtime.pull(image).await,
            &REFUSED,
        );
    }
    assert!(
        bed.runtime.list_containers().await?.is_empty(),
        "a refused container is listed"
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_closed_to_other_users_and_sockets_have_paths() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::make().await?;
    let (pod, _container) = bed.idle_pod("closed").await?;
    for directory in [bed.node().root(), bed.node().path(bed.node().state())] {
        let mode = std::fs::metadata(&directory)?.permissions().mode() & 0o777;
        assert_eq!(
            mode & 0o007,
            0,
            "{} is open to others: {mode:o}",
            directory.display()
        );
    }
    let text = std::fs::read_to_string(format!("/proc/{}/net/unix", bed.node().init()))?;
    assert!(
        !text.lines().any(|line| line.contains(" @")),
        "an abstract socket:\n{text}"
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_end_costs_no_memory() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("yes").await?;
    let before = rss(&bed.daemon.proc()?)?;
    let calls = (0..8).map(|_| {
        let container = container.clone();
        tokio::spawn(async move { container.exec_for(&["yes"], Duration::from_secs(2)).await })
    });
    for call in calls.collect::<Vec<_>>() {
        refused("yes", call.await?, &[Code::DeadlineExceeded]);
    }
    let after = rss(&bed.daemon.proc()?)?;
    assert!(
        after < before + (48 << 20),
        "the daemon grew from {before} to {after} bytes"
    );
    assert_eq!(container.exec(&["true"]).await?.code, 0);
    pod.remove().await?;
    bed.leave().await
}
