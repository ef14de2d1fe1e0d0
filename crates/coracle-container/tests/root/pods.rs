//! Namespaces that containers of a pod share.

use std::collections::BTreeMap;

use coracle_container::namespace::{Namespace, PinRequest, pin, unpin, user_namespace};
use coracle_container::pod_init::{self, PodInitRequest};
use coracle_types::security::IdMapping;
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use crate::fixture::{busybox, exec_shell, finish, run, spec, start, stop, try_create, wait};

pub(crate) const TESTS: &[super::Test] = &[
    ("root_pinned_namespaces_are_joined", pinned),
    ("root_a_pod_init_reaps_and_ends_with_all", shared_pid),
    ("root_a_pinned_user_namespace_owns_a_pod", user_pod),
    ("root_an_id_mapping_is_held_by_its_descriptor", mapping),
    ("root_a_pin_that_fails_leaves_nothing", failing),
];

const MAPPING: [IdMapping; 1] = [IdMapping {
    host_id: 100_000,
    container_id: 0,
    length: 65536,
}];

fn join(value: &mut serde_json::Value, kind: &str, path: &std::path::Path) {
    let namespaces = value["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != kind);
    namespaces.push(json!({"type": kind, "path": path}));
}

fn pinned() {
    let image = busybox();
    let pins = tempfile::tempdir().unwrap();
    let at = |name: &str| pins.path().join(name);
    pin(&PinRequest {
        pins: [
            (Namespace::Uts, at("uts")),
            (Namespace::Ipc, at("ipc")),
            (Namespace::Net, at("net")),
        ]
        .into(),
        hostname: Some("the-pod"),
        sysctls: BTreeMap::from([
            ("kernel.shmmni".into(), "1234".into()),
            ("net.ipv4.ip_forward".into(), "1".into()),
        ]),
        ..PinRequest::default()
    })
    .unwrap();
    let mut value = spec(&[
        "sh",
        "-c",
        "hostname; cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward; ip addr show lo | grep -c 127.0.0.1",
    ]);
    value.as_object_mut().unwrap().remove("hostname");
    for (kind, name) in [("uts", "uts"), ("ipc", "ipc"), ("network", "net")] {
        join(&mut value, kind, &at(name));
    }
    assert_eq!(run(&image, &value), (0, "the-pod\n1234\n1\n1\n".into()));
    for name in ["uts", "ipc", "net"] {
        unpin(&at(name)).unwrap();
        unpin(&at(name)).unwrap();
    }
    assert_eq!(std::fs::read_dir(pins.path()).unwrap().count(), 0);
}

fn shared_pid() {
    let image = busybox();
    let pins = tempfile::tempdir().unwrap();
    let path = pins.path().join("pid");
    let init = pod_init::spawn(&PodInitRequest {
        join: Vec::new(),
        cgroup: None,
        pid_pin: Some(path.clone()),
        user: (65535, 65535),
    })
    .unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", init.pid().as_raw_nonzero())).unwrap();
    for line in [
        "Uid:\t65535",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let root = std::fs::read_dir(format!("/proc/{}/root/", init.pid().as_raw_nonzero())).unwrap();
    assert_eq!(root.count(), 0, "nothing of the host is behind its root");

    let mut value = spec(&["sh", "-c", "sleep 1000"]);
    join(&mut value, "pid", &path);
    let first = start(&image, &value);
    let mut value = spec(&[
        "sh",
        "-c",
        "ps; (sh -c 'sleep 0.05' &); sleep 0.3; grep -l 'State:.Z' /proc/[0-9]*/status 2>&1 | wc -l",
    ]);
    join(&mut value, "pid", &path);
    let (_, text) = run(&image, &value);
    assert!(text.contains("pod-init") && text.contains("sleep 1000"), "{text}");
    assert!(text.contains("\n0\n"), "a zombie stays: {text}");
    let (_, text) = exec_shell(
        &first,
        "ps | grep -c 'sleep [1]000'; ls /proc/1/root/ 2>&1 | wc -l",
    );
    assert!(text.starts_with("1\n"), "{text}");
    // Children of this process are made in its own namespace again.
    let own = std::process::Command::new("readlink")
        .arg("/proc/self/ns/pid")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&own.stdout).trim(),
        std::fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap()
    );
    pidfd_send_signal(init.pidfd(), Signal::TERM).unwrap();
    // With it the namespace ends; its own end waits until what others made in it has been reaped.
    assert_eq!(finish(first).0, 137);
    assert_eq!(wait(init.pidfd()), 0);
    unpin(&path).unwrap();
}

fn user_pod() {
    let image = busybox();
    let status = std::process::Command::new("chown")
        .args(["-R", "100000:100000"])
        .arg(image.root())
        .status();
    assert!(status.unwrap().success());
    let pins = tempfile::tempdir().unwrap();
    let at = |name: &str| pins.path().join(name);
    pin(&PinRequest {
        pins: [
            (Namespace::User, at("user")),
            (Namespace::Uts, at("uts")),
            (Namespace::Ipc, at("ipc")),
            (Namespace::Net, at("net")),
        ]
        .into(),
        hostname: Some("user-pod"),
        sysctls: BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".into(), "0".into())]),
        uids: &MAPPING,
        gids: &MAPPING,
        join: Vec::new(),
    })
    .unwrap();
    let joined = |value: &mut serde_json::Value| {
        for (kind, name) in [
            ("uts", "uts"),
            ("ipc", "ipc"),
            ("network", "net"),
            ("user", "user"),
        ] {
            join(value, kind, &at(name));
        }
    };
    // A PID namespace of its own, made inside the pod's user namespace.
    let mut value = spec(&[
        "sh",
        "-c",
        "hostname; echo $$; id -u; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; sleep 1000",
    ]);
    value.as_object_mut().unwrap().remove("hostname");
    joined(&mut value);
    let running = start(&image, &value);
    // The last command of its shell may not have begun yet.
    let (code, text) = exec_shell(
        &running,
        "hostname; id -u; until ps | grep 'sleep [1]000' > /dev/null; do usleep 1000; done",
    );
    assert_eq!((code, text.as_str()), (0, "user-pod\n0\n"));
    let map =
        std::fs::read_to_string(format!("/proc/{}/uid_map", running.init.pid().as_raw_nonzero())).unwrap();
    assert!(map.contains("100000"), "{map}");
    let mut seen = [0; 100];
    let mut length = 0;
    while !seen[..length].ends_with(b"0\n0\n") {
        length += rustix::io::read(&running.output, &mut seen[length..]).unwrap();
    }
    assert_eq!(&seen[..length], b"user-pod\n1\n0\n0\n");
    stop(running);

    // A PID namespace of the pod.
    let init = pod_init::spawn(&PodInitRequest {
        join: vec![(Namespace::User, at("user"))],
        cgroup: None,
        pid_pin: Some(at("pid")),
        user: (65535, 65535),
    })
    .unwrap();
    let mut value = spec(&["ps"]);
    joined(&mut value);
    join(&mut value, "pid", &at("pid"));
    let (code, text) = run(&image, &value);
    assert!(code == 0 && text.contains("pod-init"), "{text}");
    pidfd_send_signal(init.pidfd(), Signal::TERM).unwrap();
    assert_eq!(wait(init.pidfd()), 0);
    for name in ["pid", "user", "uts", "ipc", "net"] {
        unpin(&at(name)).unwrap();
    }
}

fn mapping() {
    let image = busybox();
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("f"), "x").unwrap();
    std::fs::set_permissions(volume.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let _namespace = user_namespace(&MAPPING, &MAPPING).unwrap();
    let mut value = spec(&["stat", "-c", "%u:%g", "/volume/f"]);
    let map = json!([{"containerID": 0, "hostID": 4000, "size": 1000}]);
    value["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/volume", "source": volume.path(), "options": ["bind", "idmap"],
        "uidMappings": map, "gidMappings": map}),
    );
    assert_eq!(run(&image, &value).1, "4000:4000\n");
}

fn failing() {
    let pins = tempfile::tempdir().unwrap();
    let at = |name: &str| pins.path().join(name);
    let request = PinRequest {
        pins: [(Namespace::Ipc, at("ipc")), (Namespace::Uts, at("missing/uts"))].into(),
        ..PinRequest::default()
    };
    assert!(pin(&request).is_err());
    assert_eq!(std::fs::read_dir(pins.path()).unwrap().count(), 0);
    let request = PinRequest {
        pins: [(Namespace::Net, at("net"))].into(),
        sysctls: BTreeMap::from([("net.ipv4.ip_forward".into(), "nonsense".into())]),
        ..PinRequest::default()
    };
    assert!(
        pin(&request)
            .unwrap_err()
            .to_string()
            .contains("net.ipv4.ip_forward")
    );
    let image = busybox();
    let mut value = spec(&["true"]);
    join(&mut value, "network", &image.root().join("bin/busybox"));
    assert!(
        try_create(&image, &value)
            .err()
            .unwrap()
            .to_string()
            .contains("no namespace")
    );
    stop(start(&image, &spec(&["sleep", "1000"])));
}
