//! Findings on made-up trees, and on the machine that runs the tests.

use std::path::Path;

use tempfile::TempDir;

use super::*;

fn subject(tree: &Path) -> Subject {
    Subject {
        tree: tree.to_owned(),
        root: "/var/lib/coracle".into(),
        state: "/run/coracle".into(),
        socket: "/run/coracle/coracle.sock".into(),
        cni_conf_dir: "/etc/cni/net.d".into(),
        cni_bin_dirs: vec!["/opt/cni/bin".into()],
        kubelet_config: "/var/lib/kubelet/config.yaml".into(),
        daemon: Daemon::Silent("nobody listens".to_owned()),
        configuration: Some(configuration()),
        erofs: Erofs::There,
    }
}

fn configuration() -> Configuration {
    Configuration {
        source: "/etc/coracle/config.toml".to_owned(),
        mistakes: Vec::new(),
        pending: Vec::new(),
        socket: "/run/coracle/coracle.sock".into(),
        socket_group: String::new(),
        cgroup_driver: "cgroupfs".to_owned(),
        snapshotter: "auto".to_owned(),
        registry_dirs: vec!["/etc/coracle/certs.d".into()],
        default_network: true,
    }
}

fn tree(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

fn find(findings: &[Finding], name: &str) -> Finding {
    let found = findings.iter().find(|finding| finding.name == name);
    found
        .unwrap_or_else(|| panic!("no finding {name}: {findings:#?}"))
        .clone()
}

#[test]
fn a_daemon_that_hangs_is_broken_and_started_again() {
    let mut hangs = subject(Path::new("/"));
    hangs.daemon = Daemon::Hangs("takes connections and does not answer".to_owned());
    let found = find(&examine(&hangs, &[Topic::Sockets]), "daemon");
    assert_eq!(found.state, State::Broken, "{found:?}");
    assert!(found.remedy.contains("systemctl restart"), "{found:?}");
}

#[test]
fn this_machine_is_examined_and_every_complaint_says_what_to_do() {
    let findings = examine(&subject(Path::new("/")), &[]);
    assert!(findings.len() > 30, "{}", findings.len());
    for finding in findings {
        assert!(!finding.seen.is_empty(), "{finding:?}");
        if matches!(finding.state, State::Costs | State::Broken) {
            assert!(
                !finding.cost.is_empty() && !finding.remedy.is_empty(),
                "{finding:?}"
            );
        } else {
            assert!(
                finding.state == State::Unknown || finding.cost.is_empty(),
                "{finding:?}"
            );
        }
    }
}

#[test]
fn only_the_parts_that_are_asked_for_are_examined() {
    let findings = examine(&subject(Path::new("/")), &[Topic::System]);
    assert!(findings.iter().all(|finding| finding.topic == Topic::System));
}

#[test]
fn a_pure_and_a_mixed_hierarchy_are_told_apart() {
    let pure = tree(&[
        (
            "sys/fs/cgroup/cgroup.controllers",
            "cpuset cpu io memory hugetlb pids\n",
        ),
        ("sys/fs/cgroup/init.scope/cgroup.kill", ""),
    ]);
    let findings = examine(&subject(pure.path()), &[Topic::Cgroups]);
    for name in ["version", "controllers", "cgroup.kill"] {
        assert_eq!(find(&findings, name).state, State::Ok, "{name}");
    }
    let mixed = tree(&[
        ("sys/fs/cgroup/unified/cgroup.controllers", ""),
        ("sys/fs/cgroup/cpu,cpuacct/x", ""),
        ("sys/fs/cgroup/memory/x", ""),
    ]);
    let findings = examine(&subject(mixed.path()), &[Topic::Cgroups]);
    assert!(find(&findings, "version").seen.contains("hybrid"));
    let controllers = find(&findings, "controllers");
    assert_eq!(
        (controllers.seen.as_str(), controllers.state),
        ("cpu, memory", State::Broken)
    );
    assert!(controllers.cost.contains("without pids"));
}

#[test]
fn drivers_that_differ_are_broken() {
    let kubelet = tree(&[
        (
            "var/lib/kubelet/config.yaml",
            "kind: KubeletConfiguration\ncgroupDriver: systemd\n",
        ),
        ("sys/fs/cgroup/cgroup.controllers", "cpu\n"),
        ("run/systemd/system/x", ""),
    ]);
    let mut subject = subject(kubelet.path());
    let with = |driver: &str| Daemon::Answers {
        version: "coracle 1".to_owned(),
        conditions: Vec::new(),
        cgroup_driver: Some(driver.to_owned()),
    };
    subject.daemon = with("cgroupfs");
    let finding = find(&examine(&subject, &[Topic::Cgroups]), "driver");
    assert_eq!(finding.state, State::Broken);
    assert!(
        finding.remedy.contains("cgroup.driver = \"systemd\""),
        "{}",
        finding.remedy
    );
    subject.daemon = with("systemd");
    assert_eq!(
        find(&examine(&subject, &[Topic::Cgroups]), "driver").state,
        State::Ok
    );
}

#[test]
fn a_user_who_may_not_ask_is_told_how_to_and_not_to_start_what_runs() {
    let empty = tree(&[]);
    let mut subject = subject(empty.path());
    subject.daemon = Daemon::Refused;
    subject.configuration.as_mut().unwrap().socket_group = "operators".to_owned();
    let finding = find(&examine(&subject, &[Topic::Sockets]), "daemon");
    assert_eq!(finding.state, State::Unknown);
    assert!(finding.remedy.contains("usermod -aG operators"), "{finding:?}");
    assert!(!finding.remedy.contains("start"), "{finding:?}");
}

#[test]
fn the_systemd_driver_wants_version_2_and_systemd() {
    let judged = |files: &[(&str, &str)]| {
        let tree = tree(files);
        let mut subject = subject(tree.path());
        let configuration = subject.configuration.as_mut().unwrap();
        configuration.cgroup_driver = "systemd".to_owned();
        find(&examine(&subject, &[Topic::Cgroups]), "driver")
    };
    let (pure, booted) = (
        ("sys/fs/cgroup/cgroup.controllers", "cpu\n"),
        ("run/systemd/system/x", ""),
    );
    assert!(judged(&[booted]).seen.contains("without cgroup version 2"));
    assert!(judged(&[pure]).seen.contains("without a systemd"));
    let well = judged(&[pure, booted]);
    assert_eq!(
        (well.state, well.seen.as_str()),
        (State::Ok, "systemd; no kubelet is configured here")
    );
}

#[test]
fn a_configuration_is_judged_by_what_it_names() {
    let tree = tree(&[
        ("etc/group", "root:x:0:\noperators:x:990:kim,lee\nempty:x:7:\n"),
        ("etc/coracle/certs.d/registry.test/hosts.toml", ""),
    ]);
    let mut subject = subject(tree.path());
    let findings = |subject: &Subject| examine(subject, &[Topic::Configuration]);
    let well = findings(&subject);
    assert!(well.iter().all(|finding| finding.state == State::Ok), "{well:#?}");
    assert_eq!(find(&well, "registries").seen, "by hosts.toml: registry.test");

    let configuration = subject.configuration.as_mut().unwrap();
    configuration.mistakes = vec![
        "config.toml:2: rooot: unknown key".to_owned(),
        "another".to_owned(),
    ];
    configuration.pending = vec![Pending {
        words: "log.level = \"debug\"".to_owned(),
        restart: false,
    }];
    configuration.socket = "/elsewhere.sock".into();
    configuration.socket_group = "nobody-knows".to_owned();
    let ill = findings(&subject);
    let mistakes = find(&ill, "source");
    assert_eq!(mistakes.state, State::Broken);
    assert_eq!(mistakes.seen, "config.toml:2: rooot: unknown key (and 1 more)");
    assert_eq!(find(&ill, "in force").remedy, "coracle config reload");
    assert!(
        find(&ill, "socket")
            .remedy
            .contains("CORACLE_SOCKET=/elsewhere.sock")
    );
    assert!(
        find(&ill, "group of the socket")
            .remedy
            .contains("groupadd --system nobody-knows")
    );

    let configuration = subject.configuration.as_mut().unwrap();
    configuration.pending[0].restart = true;
    configuration.socket_group = "operators".to_owned();
    let ill = findings(&subject);
    assert!(find(&ill, "in force").remedy.contains("restart"));
    assert_eq!(
        find(&ill, "group of the socket").seen,
        "operators: kim,lee, who can become root"
    );
    subject.configuration.as_mut().unwrap().socket_group = "empty".to_owned();
    assert!(
        find(&findings(&subject), "group of the socket")
            .seen
            .contains("nobody in it")
    );

    subject.configuration = None;
    assert!(
        find(&findings(&subject), "source")
            .seen
            .contains("another runtime's")
    );
}

#[test]
fn without_a_default_network_a_configuration_must_be_there() {
    let empty = tree(&[]);
    let mut subject = subject(empty.path());
    let state = |subject: &Subject| find(&examine(subject, &[Topic::Network]), "CNI configuration").state;
    assert_eq!(state(&subject), State::Costs);
    subject.configuration.as_mut().unwrap().default_network = false;
    assert_eq!(state(&subject), State::Broken);
}

#[test]
fn configurations_of_networks_are_read_and_their_plugins_looked_for() {
    let list =
        r#"{"name":"pods","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"tuning"}]}"#;
    let without = tree(&[("etc/cni/net.d/10-pods.conflist", list)]);
    let findings = examine(&subject(without.path()), &[Topic::Network]);
    assert_eq!(
        find(&findings, "CNI configuration").seen,
        "10-pods.conflist: network pods"
    );
    let plugins = find(&findings, "CNI plugins");
    assert_eq!(plugins.state, State::Broken);
    assert!(plugins.cost.contains("tuning"), "{}", plugins.cost);
    let with = tree(&[
        ("etc/cni/net.d/10-pods.conflist", list),
        ("opt/cni/bin/tuning", ""),
    ]);
    assert_eq!(
        find(&examine(&subject(with.path()), &[Topic::Network]), "CNI plugins").state,
        State::Ok
    );
    let bad = tree(&[("etc/cni/net.d/1.conf", "{")]);
    assert_eq!(
        find(
            &examine(&subject(bad.path()), &[Topic::Network]),
            "CNI configuration"
        )
        .state,
        State::Broken
    );
    let stub = tree(&[("etc/resolv.conf", "nameserver 127.0.0.53\n")]);
    assert_eq!(
        find(&examine(&subject(stub.path()), &[Topic::Network]), "name servers").state,
        State::Costs
    );
}

#[test]
fn a_daemon_that_is_not_ready_is_broken_and_one_that_is_away_is_not() {
    let empty = tree(&[]);
    let mut subject = subject(empty.path());
    assert_eq!(
        find(&examine(&subject, &[Topic::Sockets]), "daemon").state,
        State::Costs
    );
    subject.daemon = Daemon::Answers {
        version: "coracle 1".to_owned(),
        conditions: vec![Condition {
            name: "NetworkReady".to_owned(),
            holds: false,
            message: "no address is left".to_owned(),
        }],
        cgroup_driver: None,
    };
    let finding = find(&examine(&subject, &[Topic::Sockets]), "has a network");
    assert_eq!(
        (finding.state, finding.cost.as_str()),
        (State::Broken, "no address is left")
    );
}

#[test]
fn the_form_of_layers_is_told_with_the_reason() {
    let tree = tree(&[]);
    let lacking = || Erofs::Lacking("no file is mounted here".to_owned());
    for (asked, erofs, state, words) in [
        ("auto", Erofs::There, State::Ok, "one EROFS file each"),
        ("erofs", Erofs::There, State::Ok, "one EROFS file each"),
        ("overlay", Erofs::There, State::Costs, "\"overlay\""),
        ("overlay", lacking(), State::Ok, "directories and files"),
        ("auto", lacking(), State::Costs, "no file is mounted here"),
        ("erofs", lacking(), State::Broken, "no file is mounted here"),
        ("auto", Erofs::NotTried, State::Unknown, "not tried"),
    ] {
        let mut subject = subject(tree.path());
        subject.erofs = erofs.clone();
        subject.configuration = Some(Configuration {
            snapshotter: asked.to_owned(),
            ..configuration()
        });
        let found = find(&examine(&subject, &[]), "form of layers");
        assert_eq!(found.state, state, "{asked} {erofs:?}: {found:?}");
        assert!(found.seen.contains(words), "{asked} {erofs:?}: {found:?}");
    }
}
