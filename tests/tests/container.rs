//! What a container finds inside: its programs' output and logs, its view of the machine. Needs root.

use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_tests::Bed;
use coracle_tests::checks::{holds, refused};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn logs_have_streams_partial_lines_and_can_be_moved_away() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("logs")).await?;
    let script = "echo out; echo err >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf unfinished";
    let container = pod
        .run(&ContainerSpec::script("writes", &bed.busybox, script))
        .await?;
    container.exited().await?;
    let lines = container.log_lines()?;
    let line = |stream: &str, tag: &str, text: &str| (stream.to_owned(), tag.to_owned(), text.to_owned());
    assert!(lines.contains(&line("stdout", "F", "out")) && lines.contains(&line("stderr", "F", "err")));
    let long: Vec<_> = lines.iter().filter(|line| line.2.starts_with('x')).collect();
    let tags: String = long.iter().map(|line| line.1.as_str()).collect();
    assert_eq!(tags, "PPF", "16 KiB a piece");
    assert_eq!(long.iter().map(|line| line.2.len()).sum::<usize>(), 40000);
    assert!(
        lines.iter().any(|line| line.2 == "unfinished"),
        "the last words without a newline are kept"
    );

    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done";
    let container = pod
        .run(&ContainerSpec::script("goes-on", &bed.busybox, script))
        .await?;
    container.logged("line 3").await?;
    let moved = container.log().with_extension("1");
    std::fs::rename(container.log(), &moved)?;
    let request = cri::ReopenContainerLogRequest {
        container_id: container.id().to_owned(),
    };
    bed.runtime
        .runtime()
        .reopen_container_log(request.clone())
        .await?;
    container.logged("line").await?;
    container.stop(Duration::ZERO).await?;
    // Every line is in exactly one of the two files.
    let number = |text: &str| text.rsplit(' ').next().unwrap_or_default().parse::<u32>();
    let old: Vec<u32> = std::fs::read_to_string(&moved)?
        .lines()
        .flat_map(number)
        .collect();
    let new: Vec<u32> = container
        .log_lines()?
        .iter()
        .flat_map(|line| number(&line.2))
        .collect();
    let all: Vec<u32> = old.iter().chain(&new).copied().collect();
    assert_eq!(all, (1..=u32::try_from(all.len())?).collect::<Vec<_>>());

    // Of a container that does not run nothing is made.
    std::fs::remove_file(container.log())?;
    let _ = bed.runtime.runtime().reopen_container_log(request).await;
    assert!(!container.log().exists());
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_gives_output_and_code_and_ends_when_it_should() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("execs").await?;
    let output = container
        .exec(&["sh", "-c", "echo out; echo err >&2; exit 3"])
        .await?;
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.code),
        ("out\n", "err\n", 3)
    );
    // Killed by signal 9.
    assert_eq!(container.exec(&["sh", "-c", "kill -9 $$"]).await?.code, 137);

    let answer = container
        .exec_for(&["sh", "-c", "sleep 4321 & sleep 4321"], Duration::from_secs(1))
        .await;
    refused("a command over its time", answer, &[Code::DeadlineExceeded]);
    let left = container.exec(&["sh", "-c", "ps | grep 'sleep 432[1]'"]).await?;
    assert_eq!(left.stdout, "", "the whole process tree is dead");

    // A child that holds the output open does not hang the call.
    let output = container.exec(&["sh", "-c", "sleep 77 & echo done"]).await?;
    assert_eq!((output.stdout.as_str(), output.code), ("done\n", 0));

    let much = container.exec(&["sh", "-c", "yes | head -c 40000000"]).await?;
    assert!(
        much.stdout.len() <= 16 << 20 && much.stdout.len() > 1 << 20,
        "{} bytes",
        much.stdout.len()
    );

    let codes = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::FailedPrecondition,
        Code::Unknown,
    ];
    holds(
        &refused("no program", container.exec(&["/no/such"]).await, &codes),
        &["/no/such"],
    );
    refused("no command", container.exec(&[]).await, &[Code::InvalidArgument]);
    container.stop(Duration::ZERO).await?;
    refused("exec after the end", container.exec(&["true"]).await, &codes);
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_what_they_should() -> Result<()> {
    let bed = Bed::make().await?;
    for shared in [false, true] {
        let spec = PodSpec::new("shares").with(|config| config.hostname = "a-host".into());
        let pod = bed
            .runtime
            .run_pod(if shared { spec.shared_pids() } else { spec })
            .await?;
        let pid = if shared {
            cri::NamespaceMode::Pod
        } else {
            cri::NamespaceMode::Container
        };
        let idle = |name: &str| {
            ContainerSpec::idle(name, &bed.busybox)
                .security(|security| security.namespace_options.get_or_insert_default().pid = pid.into())
        };
        let (one, two) = (pod.run(&idle("one")).await?, pod.run(&idle("two")).await?);
        for space in ["net", "ipc", "uts"] {
            let link = format!("/proc/self/ns/{space}");
            let of_one = one.exec(&["readlink", &link]).await?.stdout;
            assert_eq!(of_one, two.exec(&["readlink", &link]).await?.stdout, "{space}");
            assert_ne!(
                of_one,
                bed.node().run("readlink", &[&link])?,
                "{space} is the node's"
            );
        }
        let processes = |name: &str| format!("readlink /proc/self/ns/pid; cat /proc/1/comm; echo {name}");
        let (of_one, of_two) = (
            one.exec(&["sh", "-c", &processes("")]).await?.stdout,
            two.exec(&["sh", "-c", &processes("")]).await?.stdout,
        );
        assert_eq!(of_one == of_two, shared, "{of_one} {of_two}");
        assert_eq!(one.exec(&["hostname"]).await?.stdout, "a-host\n");
        // A server in one is reached from the other over the pod's loopback.
        one.exec(&[
            "sh",
            "-c",
            "echo hello > /tmp/index.html; httpd -p 127.0.0.1:8000 -h /tmp",
        ])
        .await?;
        assert_eq!(
            two.exec(&["wget", "-qO-", "http://127.0.0.1:8000/index.html"])
                .await?
                .stdout,
            "hello\n"
        );
        pod.remove().await?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_system_is_the_images_with_the_usual_mounts() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("files").await?;
    let sh = async |script: &str| anyhow::Ok(container.exec(&["sh", "-c", script]).await?.stdout);
    holds(
        &sh("cat /proc/mounts").await?,
        &[
            " / overlay ",
            " /proc proc ",
            " /sys sysfs ro",
            " /dev tmpfs ",
            " /dev/pts devpts ",
            " /dev/shm ",
            " /dev/mqueue mqueue ",
        ],
    );
    assert_eq!(
        sh("stat -c '%F %t,%T %a' /dev/null /dev/zero /dev/urandom").await?,
        "character special file 1,3 666\ncharacter special file 1,5 666\ncharacter special file 1,9 666\n"
    );
    // Masked and read-only paths (the kubelet sends none for a privileged container only).
    assert_eq!(
        sh("echo x 2>/dev/null > /proc/sys/kernel/hostname || echo refused").await?,
        "refused\n"
    );
    assert_eq!(sh("cat /proc/kcore 2>/dev/null | wc -c").await?, "0\n");
    assert_eq!(sh("touch /sys/x 2>/dev/null || echo refused").await?, "refused\n");
    // The root is the container's own: two containers do not see each other's writes.
    let other = pod.run(&ContainerSpec::idle("other", &bed.busybox)).await?;
    sh("echo mine > /mine").await?;
    assert_ne!(other.exec(&["cat", "/mine"]).await?.code, 0);

    let readonly =
        ContainerSpec::idle("readonly", &bed.busybox).security(|security| security.readonly_rootfs = true);
    let readonly = pod.run(&readonly).await?;
    let output = readonly.exec(&["touch", "/x"]).await?;
    holds(&output.stderr, &["Read-only file system"]);
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_bound_as_asked() -> Result<()> {
    let bed = Bed::make().await?;
    let host = bed.node().directory().join("volume");
    std::fs::create_dir_all(&host)?;
    std::fs::write(host.join("from-host"), "hello\n")?;
    let pod = bed.runtime.run_pod(PodSpec::new("volumes")).await?;
    let spec = ContainerSpec::idle("volumes", &bed.busybox)
        .bind(&host, "/rw")
        .bind(&host, "/deep/in/the/ro")
        .bind(&host.join("from-host"), "/etc/one-file")
        .with(|config| config.mounts[1].readonly = true);
    let container = pod.run(&spec).await?;
    let output = container
        .exec(&[
            "sh",
            "-c",
            "cat /rw/from-host /etc/one-file; echo back > /rw/from-pod; touch /deep/in/the/ro/x",
        ])
        .await?;
    assert_eq!(output.stdout, "hello\nhello\n");
    holds(&output.stderr, &["Read-only file system"]);
    assert_eq!(std::fs::read_to_string(host.join("from-pod"))?, "back\n");
    let mounts = container.status().await?.mounts;
    assert_eq!(mounts, spec.config().mounts, "the status tells what was asked");

    let gone = ContainerSpec::idle("gone", &bed.busybox).bind(&host.join("nowhere"), "/x");
    // As containerd and CRI-O do: a missing source is made, a directory.
    let answer = pod.run(&gone).await;
    assert!(answer.is_ok() || answer.is_err_and(|status| status.message().contains("nowhere")));
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_capabilities_and_seccomp_are_as_asked() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("users")).await?;
    let show = "id -u; id -g; id -G; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '";
    let plain = pod.run(&ContainerSpec::idle("plain", &bed.busybox)).await?;
    let text = plain.exec(&["sh", "-c", show]).await?.stdout;
    // containerd's default set; nothing inheritable (CVE-2022-29162).
    holds(
        &text,
        &[
            "0\n0\n",
            "CapInh: 0000000000000000",
            "CapEff: 00000000a80425fb",
            "CapAmb: 0000000000000000",
        ],
    );

    let spec = ContainerSpec::idle("nobody", &bed.busybox).security(|security| {
        security.run_as_user = Some(cri::Int64Value { value: 65534 });
        security.run_as_group = Some(cri::Int64Value { value: 4242 });
        security.supplemental_groups = vec![1234, 5678];
        security.no_new_privs = true;
        security.seccomp = Some(cri::SecurityProfile::default());
        security.capabilities = Some(cri::Capability {
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
    });
    let nobody = pod.run(&spec).await?;
    let text = nobody.exec(&["sh", "-c", show]).await?.stdout;
    holds(
        &text,
        &[
            "65534\n4242\n",
            "1234",
            "5678",
            "CapEff: 0000000000000000",
            "NoNewPrivs: 1",
            "Seccomp: 2",
        ],
    );
    let status = nobody
        .status()
        .await?
        .user
        .and_then(|user| user.linux)
        .unwrap_or_default();
    assert_eq!((status.uid, status.gid), (65534, 4242));

    let spec =
        ContainerSpec::idle("privileged", &bed.busybox).security(|security| security.privileged = true);
    let refused_in_plain = pod.run(&spec).await;
    refused(
        "a privileged container in a plain pod",
        refused_in_plain.map(|_| ()),
        &[Code::InvalidArgument, Code::FailedPrecondition, Code::Unknown],
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_the_machine_are_set_in_the_cgroup() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("shares")).await?;
    let spec = ContainerSpec::idle("limited", &bed.busybox).resources(|resources| {
        resources.memory_limit_in_bytes = 64 << 20;
        resources.cpu_quota = 50_000;
        resources.cpu_period = 100_000;
        resources.cpu_shares = 512;
        resources.oom_score_adj = 500;
    });
    let container = pod.run(&spec).await?;
    assert_eq!(
        container.exec(&["cat", "/proc/1/oom_score_adj"]).await?.stdout,
        "500\n"
    );
    let groups = coracle_testkit::census::cgroup::of_instance(bed.node())?;
    let own: Vec<_> = groups
        .iter()
        .filter(|group| coracle_testkit::census::cgroup::is_of(group, container.id()))
        .collect();
    assert!(
        !own.is_empty(),
        "no cgroup is named by the container's id: {groups:?}"
    );
    let value = |names: &[&str]| {
        own.iter()
            .flat_map(|group| names.iter().map(|name| group.join(name)))
            .find_map(|file| std::fs::read_to_string(file).ok())
    };
    assert_eq!(
        value(&["memory.max", "memory.limit_in_bytes"])
            .unwrap_or_default()
            .trim(),
        (64 << 20).to_string()
    );
    assert_eq!(
        value(&["cpu.max", "cpu.cfs_quota_us"])
            .unwrap_or_default()
            .split_whitespace()
            .next(),
        Some("50000")
    );
    let resources = container
        .status()
        .await?
        .resources
        .and_then(|resources| resources.linux)
        .unwrap_or_default();
    assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    pod.remove().await?;
    bed.leave().await
}

/// Whether this machine's kernel confines processes by AppArmor profiles.
fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with('Y'))
}

/// Asks for a kind of AppArmor profile, and for what its absence would allow: mounts, the paths of the kernel.
fn with_profile(spec: ContainerSpec, kind: cri::security_profile::ProfileType) -> ContainerSpec {
    spec.security(|security| {
        security.apparmor = Some(cri::SecurityProfile {
            profile_type: kind.into(),
            ..Default::default()
        });
        security.capabilities = Some(cri::Capability {
            add_capabilities: vec!["SYS_ADMIN".into()],
            ..Default::default()
        });
        security.masked_paths.clear();
        security.readonly_paths.clear();
    })
}

/// Where AppArmor is off, all of this must work as well: then nothing is forbidden.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_apparmor_profile_forbids_what_leads_out_and_nothing_else() -> Result<()> {
    use cri::security_profile::ProfileType::{RuntimeDefault, Unconfined};
    const LABEL: &str = "cat /proc/self/attr/current 2>/dev/null || echo none";
    const OUT: &str = "mkdir -p /m; mount -t tmpfs tmpfs /m 2>/dev/null && echo mounted; \
        echo x 2>/dev/null >/proc/sys/kernel/hostname && echo named; true";
    const WORK: &str = "set -e; mkdir -p /w/d; cd /w; echo text >f; ln f g; ln -s f h; mv g d/; chmod 640 f; \
        chown 1:1 f; mkfifo p; mknod null c 1 3; echo x >null; (echo hello >p) & cat p; cp /bin/busybox .; \
        ./busybox sh -c 'echo own'; echo x >/dev/shm/x; httpd -f -p 127.0.0.1:8000 -h /w & s=$!; \
        until wget -qO- http://127.0.0.1:8000/h 2>/dev/null; do sleep 0.1; done; kill $s; wait $s || true; \
        sleep 1000 & ls -l /proc/$!/exe; kill $!; wait $! || echo killed; \
        ps >/dev/null; rm -r /w; echo done";
    let mut bed = Bed::make().await?;
    let on = apparmor();
    let own = if on {
        "coracle-default (enforce)\n"
    } else {
        "none\n"
    };
    let free = if on { "unconfined\n" } else { "none\n" };

    let pod = bed
        .runtime
        .run_pod(PodSpec::new("confined").shared_pids())
        .await?;
    let idle = |name: &str| {
        ContainerSpec::idle(name, &bed.busybox).security(|security| {
            security.namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Pod.into();
        })
    };
    let unasked = pod.run(&idle("unasked")).await?;
    let asked = pod.run(&with_profile(idle("asked"), RuntimeDefault)).await?;
    let freed = pod.run(&with_profile(idle("freed"), Unconfined)).await?;
    let sh = async |container: &coracle_testkit::cri::Container, script: &str| {
        let output = container.exec(&["sh", "-c", script]).await?;
        anyhow::ensure!(output.code == 0, "{script}: {output:?}");
        anyhow::Ok(output.stdout)
    };
    for (container, label) in [(&unasked, own), (&asked, own), (&freed, free)] {
        assert_eq!(sh(container, LABEL).await?, label);
    }
    // The first process too, not only what is executed in the container later.
    let first = pod
        .run(&ContainerSpec::script("first", &bed.busybox, LABEL))
        .await?;
    first.exited().await?;
    assert_eq!(first.log_lines()?[0].2, own.trim());
    let all = "mounted\nnamed\n";
    assert_eq!(sh(&asked, OUT).await?, if on { "" } else { all });
    assert_eq!(sh(&freed, OUT).await?, all);
    for container in [&unasked, &asked, &freed] {
        let done = sh(container, WORK).await?;
        holds(&done, &["hello\n", "own\n", "text\n", "killed\n", "done\n"]);
    }
    for container in [&asked, &freed] {
        sh(container, "echo 100000 >/proc/sys/kernel/shmmax").await?;
    }
    // Processes of the profile reach each other, wherever they are.
    let sleeper = sh(&asked, "sleep 54321 & echo $!").await?;
    sh(&unasked, &format!("kill {sleeper}")).await?;

    // A daemon that comes back puts the profile into the kernel again, over the one that is in use.
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let (asked, freed) = (asked.through(&bed.runtime), freed.through(&bed.runtime));
    assert_eq!(sh(&asked, LABEL).await?, own);
    assert_eq!(sh(&asked, OUT).await?, if on { "" } else { all });
    // The node's signals reach what is confined.
    asked.stop(Duration::from_secs(20)).await?;
    assert_eq!(asked.exited().await?.exit_code, 0, "ended by TERM, not by KILL");
    freed.stop(Duration::ZERO).await?;
    pod.through(&bed.runtime).remove().await?;

    // A node may have none, and a name that nobody loaded is refused.
    bed.node().write(
        "/etc/coracle/config.toml",
        "[container]\napparmor_profile = \"\"\n",
    )?;
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    assert_eq!(bed.script(LABEL).await?, (0, free.trim().to_owned()));
    let missing = ContainerSpec::idle("missing", &bed.busybox).security(|security| {
        security.apparmor = Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Localhost.into(),
            localhost_ref: "no-such-profile".to_owned(),
        });
    });
    let pod = bed.runtime.run_pod(PodSpec::new("missing")).await?;
    let codes = [Code::InvalidArgument, Code::FailedPrecondition];
    let answer = pod.run(&missing).await;
    holds(
        &refused("a profile that is not loaded", answer.map(|_| ()), &codes),
        &["no-such-profile"],
    );
    pod.remove().await?;
    bed.leave().await
}
