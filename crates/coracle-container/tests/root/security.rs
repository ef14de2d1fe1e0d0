//! Restrictions as a process in a container meets them.

use std::os::fd::AsRawFd as _;

use coracle_container::ExecTree;
use serde_json::json;

use crate::fixture::{busybox, exec_shell, process, read_all, run, shell, spec, start, stop, try_exec, wait};

pub(crate) const TESTS: &[super::Test] = &[
    (
        "root_capabilities_are_those_given_and_none_is_inheritable",
        capabilities,
    ),
    ("root_ambient_capabilities_reach_a_plain_user", ambient),
    ("root_a_seccomp_filter_holds_for_init_and_exec", seccomp),
    ("root_masked_paths_are_empty_and_read_only_paths_refuse", masks),
    ("root_only_three_descriptors_are_open", descriptors),
    ("root_devices_work_and_others_are_refused", devices),
    ("root_limits_sysctls_and_scores_are_applied", limits),
    ("root_a_signal_state_is_clean", signals),
    ("root_a_user_namespace_maps_ids", user_namespace),
];

fn capabilities() {
    let image = busybox();
    let show = "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status";
    let running = start(&image, &spec(&["sh", "-c", &format!("{show}; sleep 1000")]));
    let mut init = [0; 400];
    let length = rustix::io::read(&running.output, &mut init).unwrap();
    let (_, exec) = exec_shell(&running, show);
    for text in [String::from_utf8_lossy(&init[..length]).into_owned(), exec] {
        // CHOWN 0, KILL 5, SETUID 7, MKNOD 27
        for (set, bits) in [
            ("Inh", 0),
            ("Prm", 0x80000a1_u64),
            ("Eff", 0x80000a1),
            ("Bnd", 0x80000a1),
            ("Amb", 0),
        ] {
            assert!(text.contains(&format!("Cap{set}:\t{bits:016x}")), "{set}: {text}");
        }
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    }
    stop(running);
}

fn ambient() {
    let image = busybox();
    let mut value = spec(&["grep", "Cap", "/proc/self/status"]);
    value["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    value["process"]["capabilities"]["ambient"] = json!(["CAP_CHOWN"]);
    value["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN", "CAP_KILL"]);
    let (_, text) = run(&image, &value);
    for set in ["Inh", "Prm", "Eff", "Amb"] {
        assert!(text.contains(&format!("Cap{set}:\t0000000000000001")), "{text}");
    }
}

fn seccomp() {
    let image = busybox();
    for no_new_privileges in [true, false] {
        let mut value = spec(&["sh", "-c", "mkdir /tmp/a; echo $?; sleep 1000"]);
        value["process"]["noNewPrivileges"] = json!(no_new_privileges);
        value["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 62}, {"names": ["mseal"], "action": "SCMP_ACT_ERRNO"}]});
        let running = start(&image, &value);
        let mut text = [0; 200];
        let length = rustix::io::read(&running.output, &mut text).unwrap();
        assert!(
            String::from_utf8_lossy(&text[..length]).contains("Timer expired"),
            "init, {no_new_privileges}"
        );
        let (code, text) = exec_shell(&running, "mkdir /tmp/b");
        assert!(
            code == 1 && text.contains("Timer expired"),
            "exec, {no_new_privileges}: {text}"
        );
        stop(running);
    }
    // A profile that forbids what starting itself needs is told as a failure, not as a start.
    let mut value = spec(&["nothing-of-that-name"]);
    value["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]});
    value["process"]["args"] = json!(["true"]);
    let mut running = crate::fixture::try_create(&image, &value).unwrap();
    assert!(running.init.start().unwrap_err().to_string().contains("true"));
    running.init.discard().unwrap();
}

fn masks() {
    let image = busybox();
    let (_, text) = shell(
        &image,
        "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo x > /proc/keys; echo 1 > /proc/sys/kernel/hostname; \
        chmod 600 /proc/keys; touch /sys/fs/cgroup/x; stat -c '%t:%T' /proc/keys; cat /proc/sys/kernel/ostype; mount | grep -c ' on /proc/sys '",
    );
    assert!(text.starts_with("0\n0\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert!(text.contains("1:3\nLinux\n1\n"), "{text}");
}

fn descriptors() {
    let image = busybox();
    let leaked = std::fs::File::open("/").unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(&leaked, 500).unwrap();
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
    assert!(high.as_raw_fd() >= 500);
    let running = start(&image, &spec(&["sh", "-c", "ls /proc/self/fd; sleep 1000"]));
    let mut init = [0; 200];
    let length = rustix::io::read(&running.output, &mut init).unwrap();
    let (_, exec) = exec_shell(&running, "ls /proc/self/fd");
    // `ls` itself has 3 open.
    assert_eq!(String::from_utf8_lossy(&init[..length]), "0\n1\n2\n3\n");
    assert_eq!(exec, "0\n1\n2\n3\n");
    stop(running);
}

fn devices() {
    let image = busybox();
    let mut value = spec(&[
        "sh",
        "-c",
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; readlink /dev/fd; \
        head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo written; mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null count=1 2>&1; \
        mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem; stat -c '%n %t:%T %a %u:%g' /dev/net/tun; ls /dev/ptmx /dev/pts",
    ]);
    value["linux"]["devices"] = json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 3, "gid": 4}]);
    let (_, text) = run(&image, &value);
    for line in [
        "/dev/null 1:3 666",
        "/dev/tty 5:0 666",
        "/proc/self/fd",
        "3\n",
        "written",
        "/dev/net/tun a:c8 640 3:4",
        "ptmx",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
}

fn limits() {
    let image = busybox();
    let mut value = spec(&[
        "sh",
        "-c",
        "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; ip addr show lo | grep -c 127.0.0.1; umask; id -G",
    ]);
    value["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_NPROC", "soft": 1u64 << 40, "hard": 1u64 << 40}]);
    value["process"]["oomScoreAdj"] = json!(500);
    value["process"]["user"]["umask"] = json!(0o27);
    value["process"]["user"]["additionalGids"] = json!([7, 8]);
    value["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shm_rmid_forced": "1"});
    let running = start(&image, &value);
    let warnings = running.init.warnings().join("\n");
    let (code, text) = crate::fixture::finish(running);
    assert_eq!((code, text.as_str()), (0, "100\n0\n500\n0\n1\n1\n0027\n0 7 8\n"));
    if !rustix::thread::capabilities(None)
        .unwrap()
        .effective
        .contains(rustix::thread::CapabilitySet::SYS_RESOURCE)
    {
        assert!(warnings.contains("Nproc"), "{warnings}");
        value["process"]["oomScoreAdj"] = json!(-998);
        let (code, _) = run(&image, &value);
        assert_eq!(code, 0, "what cannot be lowered is gone on without");
    }
}

fn signals() {
    let image = busybox();
    let (_, text) = run(
        &image,
        &spec(&["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]),
    );
    assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

fn user_namespace() {
    let image = busybox();
    // The root file system belongs to the mapped root as a snapshot of a pod with a user namespace would.
    let status = std::process::Command::new("chown")
        .args(["-R", "100000:100000"])
        .arg(image.root())
        .status();
    assert!(status.unwrap().success());
    let mut value = spec(&[
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; touch /made; stat -c %u:%g /made; stat -c %t:%T /dev/null; echo x > /dev/null && wc -c < /proc/keys; touch /done; sleep 1000",
    ]);
    value["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    value["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    value["linux"]["gidMappings"] = value["linux"]["uidMappings"].clone();
    let running = start(&image, &value);
    let made = image.root().join("made");
    let process = process(
        &running,
        &[
            "sh",
            "-c",
            "while ! [ -e /done ]; do sleep 0.01; done; id -u; grep CapEff /proc/self/status",
        ],
    );
    let (executed, output) = try_exec(&running, &process, ExecTree::Shared).unwrap();
    assert_eq!(wait(executed.pidfd()), 0);
    assert!(read_all(output).starts_with("0\nCapEff:\t00000000080000a1"));
    let stat = rustix::fs::stat(&made).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (100_000, 100_000));
    running.init.cgroup().kill().unwrap();
    let (_, text) = crate::fixture::finish(running);
    assert!(
        text.starts_with("0\n") && text.contains("100000") && text.contains("0:0\n1:3\n0\n"),
        "{text}"
    );
}
