//! Specifications of containers as the kubelet asks for them.

use coracle_types::container::{Mount, MountPropagation};
use coracle_types::security::{IdMapping, SelinuxOptions, UserNamespace};
use coracle_types::{Kind, Kinded};
use oci_spec::runtime::LinuxNamespaceType;

use super::*;
use crate::{exec_process, raw_environment};

#[test]
fn an_ordinary_container() {
    insta::assert_snapshot!(shown(&Fixture::ordinary().spec().expect("fine")));
}

#[test]
fn a_privileged_container_on_cgroup_v1() {
    let mut fixture = Fixture::ordinary();
    fixture.pod.security.privileged = true;
    fixture.container.security.privileged = true;
    fixture.container.resources.unified.clear();
    fixture.host.cgroup = CgroupVersion::V1;
    fixture.host.cgroup_mount_options.clear();
    fixture.container.tty = true;
    insta::assert_snapshot!(shown(&fixture.spec().expect("fine")));
}

#[test]
fn a_container_in_the_nodes_network_processes_and_ipc() {
    let mut fixture = Fixture::ordinary();
    fixture.both_namespaces(NamespaceOptions {
        network: NamespaceMode::Node,
        pid: NamespaceMode::Node,
        ipc: NamespaceMode::Node,
        ..Default::default()
    });
    fixture.paths.netns = None;
    fixture.paths.uts = None;
    fixture.paths.ipc = None;
    fixture.paths.pid = None;
    insta::assert_snapshot!(shown(&fixture.spec().expect("fine")));
}

fn user_namespace() -> NamespaceOptions {
    let mapping = vec![IdMapping {
        host_id: 131_072,
        container_id: 0,
        length: 65_536,
    }];
    NamespaceOptions {
        pid: NamespaceMode::Container,
        user: Some(UserNamespace {
            mode: NamespaceMode::Pod,
            uids: mapping.clone(),
            gids: mapping,
        }),
        ..Default::default()
    }
}

#[test]
fn a_container_in_a_user_namespace() {
    let mut fixture = Fixture::ordinary();
    fixture.both_namespaces(user_namespace());
    insta::assert_snapshot!(shown(&fixture.spec().expect("fine")));
}

fn volumes_of_every_sort() -> Vec<Mount> {
    let volume = |inside: &str, outside: &str| Mount {
        container_path: inside.into(),
        host_path: outside.into(),
        ..Default::default()
    };
    let mapping = vec![IdMapping {
        host_id: 131_072,
        container_id: 0,
        length: 65_536,
    }];
    vec![
        volume("/data/deep/below", "/srv/below"),
        Mount {
            readonly: true,
            ..volume("/data", "/srv/data")
        },
        Mount {
            readonly: true,
            recursive_read_only: true,
            ..volume("/frozen", "/srv/frozen")
        },
        Mount {
            propagation: MountPropagation::HostToContainer,
            ..volume("/slave", "/srv/slave")
        },
        Mount {
            propagation: MountPropagation::Bidirectional,
            ..volume("/shared", "/srv/shared")
        },
        Mount {
            mount_options: vec!["noexec".into(), "nosuid".into(), "nodev".into()],
            ..volume("/tidy/", "/srv/tidy")
        },
        Mount {
            uid_mappings: mapping.clone(),
            gid_mappings: mapping,
            ..volume("/mapped", "/srv/mapped")
        },
        Mount {
            readonly: true,
            image: Some(ImageSpec {
                image: "sha256:1e".into(),
                ..Default::default()
            }),
            image_sub_path: "models".into(),
            ..volume("/model", "")
        },
        volume("/etc/hosts", "/var/lib/kubelet/pods/u/etc-hosts"),
        volume(
            "/dev/termination-log",
            "/var/lib/kubelet/pods/u/containers/nginx/0",
        ),
    ]
}

#[test]
fn a_container_with_every_sort_of_mount() {
    let mut fixture = Fixture::ordinary();
    fixture.container.mounts = volumes_of_every_sort();
    fixture.paths.image_mounts.insert(
        "/model".into(),
        vec![
            path("/var/lib/coracle/layers/da/fs"),
            path("/var/lib/coracle/layers/db/fs"),
        ],
    );
    for volume in ["/../../var/cache", "/data"] {
        fixture
            .image
            .volumes
            .insert(volume.into(), serde_json::Value::Null);
    }
    fixture.container.security.readonly_rootfs = true;
    let spec = fixture.spec().expect("fine");
    assert_eq!(
        spec.linux()
            .as_ref()
            .and_then(|linux| linux.rootfs_propagation().as_deref()),
        Some("rshared")
    );
    let mounts = serde_json::to_string_pretty(spec.mounts()).expect("JSON");
    insta::assert_snapshot!(mounts);
}

#[test]
fn a_volume_at_dev_takes_the_place_of_all_below_it() {
    let mut fixture = Fixture::ordinary();
    fixture.container.mounts = vec![Mount {
        container_path: "/dev".into(),
        host_path: "/dev".into(),
        ..Default::default()
    }];
    let spec = fixture.spec().expect("fine");
    let below: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount.destination().clone())
        .filter(|destination| destination.starts_with("/dev"))
        .collect();
    assert_eq!(below, [path("/dev")]);
}

#[test]
fn arguments_follow_the_images_unless_replaced() {
    let arguments = |command: &[&str], args: &[&str], entrypoint: &[&str], cmd: &[&str]| {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut fixture = Fixture::ordinary();
        fixture.container.command = list(command);
        fixture.container.args = list(args);
        fixture.image.entrypoint = list(entrypoint);
        fixture.image.cmd = list(cmd);
        let spec = fixture.spec();
        spec.map(|spec| {
            spec.process()
                .as_ref()
                .and_then(|process| process.args().clone())
                .expect("set")
                .join(" ")
        })
    };
    assert_eq!(arguments(&[], &[], &["e"], &["c"]).expect("fine"), "e c");
    assert_eq!(arguments(&[], &["a"], &["e"], &["c"]).expect("fine"), "e a");
    assert_eq!(arguments(&["x"], &[], &["e"], &["c"]).expect("fine"), "x");
    assert_eq!(arguments(&["x"], &["a"], &["e"], &["c"]).expect("fine"), "x a");
    assert_eq!(arguments(&[], &[], &[], &["c"]).expect("fine"), "c");
    assert_eq!(arguments(&[], &[], &[""], &["c"]).expect("fine"), "c");
    let error = arguments(&[], &[], &[], &[]).expect_err("nothing to run");
    assert_eq!(error.kind(), Kind::InvalidArgument);
}

#[test]
fn environment_bytes_that_are_no_text_survive() {
    let mut fixture = Fixture::ordinary();
    fixture
        .container
        .envs
        .push(("RAW".into(), vec![b'a', 0xff, b'b']));
    fixture
        .container
        .annotations
        .insert(crate::RAW_ENVIRONMENT.into(), "{\"PATH\":\"2f\"}".into());
    fixture.defaults.container_annotations = vec!["*".into()];
    let spec = fixture.spec().expect("fine");
    assert_eq!(
        raw_environment(&spec),
        [("RAW".to_owned(), vec![b'a', 0xff, b'b'])].into()
    );
    let environment = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().clone())
        .expect("set");
    assert!(environment.contains(&"RAW=a\u{fffd}b".to_owned()));
}

#[test]
fn annotations_pass_only_by_name_and_never_as_the_runtimes_own() {
    let mut fixture = Fixture::ordinary();
    for (key, value) in [
        ("allowed.example/x", "1"),
        ("other.example/y", "2"),
        ("io.kubernetes.cri.sandbox-id", "forged"),
    ] {
        fixture.pod.annotations.insert(key.into(), value.into());
    }
    fixture.defaults.pod_annotations =
        vec!["allowed.example/*".into(), "io.kubernetes.cri.sandbox-id".into()];
    let spec = fixture.spec().expect("fine");
    let annotations = spec.annotations().as_ref().expect("set");
    assert_eq!(annotations["allowed.example/x"], "1");
    assert!(!annotations.contains_key("other.example/y"));
    assert_eq!(annotations["io.kubernetes.cri.sandbox-id"], "a".repeat(64));
}

#[test]
fn a_container_joins_the_process_namespace_it_asks_for() {
    let joined = |pod, own, target: &str| {
        let mut fixture = Fixture::ordinary();
        fixture.pod.security.namespaces.pid = pod;
        fixture.container.security.namespaces.pid = own;
        fixture.container.security.namespaces.target_id = target.into();
        fixture.spec().map(|spec| {
            let namespaces = spec
                .linux()
                .as_ref()
                .and_then(|linux| linux.namespaces().clone())
                .expect("set");
            namespaces
                .into_iter()
                .find(|namespace| namespace.typ() == LinuxNamespaceType::Pid)
                .map(|namespace| namespace.path().is_some())
        })
    };
    use NamespaceMode::{Container, Node, Pod, Target};
    assert_eq!(joined(Pod, Pod, "").expect("fine"), Some(true));
    assert_eq!(joined(Pod, Container, "").expect("fine"), Some(false));
    assert_eq!(joined(Container, Target, "x").expect("fine"), Some(true));
    assert_eq!(joined(Node, Node, "").expect("fine"), None);
    assert_eq!(joined(Node, Pod, "").expect("fine"), None);
    assert!(joined(Pod, Node, "").is_err());
}

#[test]
fn a_container_cannot_be_more_than_its_pod() {
    let mut privileged = Fixture::ordinary();
    privileged.container.security.privileged = true;
    assert_eq!(
        privileged.spec().expect_err("refused").kind(),
        Kind::InvalidArgument
    );
    let mut network = Fixture::ordinary();
    network.container.security.namespaces.network = NamespaceMode::Node;
    assert!(network.spec().is_err());
    let mut user = Fixture::ordinary();
    user.pod.security.namespaces = user_namespace();
    assert!(
        user.spec().is_err(),
        "the container asks for the node's user namespace"
    );
    let mut unmapped = Fixture::ordinary();
    unmapped.both_namespaces(user_namespace());
    unmapped.user.uid = 65_536;
    let message = unmapped.spec().expect_err("refused").to_string();
    assert!(message.contains("65536"), "{message}");
}

#[test]
fn what_the_node_lacks_is_said_with_its_kind() {
    let mut recursive = Fixture::ordinary();
    recursive.host.recursive_read_only = false;
    recursive.container.mounts = vec![Mount {
        container_path: "/x".into(),
        host_path: "/x".into(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    }];
    assert_eq!(
        recursive.spec().expect_err("refused").kind(),
        Kind::RecursiveReadOnlyUnsupported
    );
    let mut apparmor = Fixture::ordinary();
    apparmor.container.security.apparmor = Some(SecurityProfile::RuntimeDefault);
    assert!(apparmor.spec().is_ok());
    apparmor.container.security.apparmor = Some(SecurityProfile::Localhost("localhost/strict".into()));
    let error = apparmor.spec().expect_err("refused");
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains("strict"), "{error}");
    let mut unified = Fixture::ordinary();
    unified.host.cgroup = CgroupVersion::V1;
    assert_eq!(
        unified.spec().expect_err("refused").kind(),
        Kind::FailedPrecondition
    );
}

#[test]
fn profiles_of_security_modules_reach_the_process() {
    let mut fixture = Fixture::ordinary();
    fixture.host.apparmor = AppArmor::Enabled;
    fixture.host.selinux = Selinux::Enabled;
    fixture.defaults.apparmor_profile = Some("coracle-default".into());
    fixture.container.security.selinux = Some(SelinuxOptions {
        level: "s0:c1,c2".into(),
        ..Default::default()
    });
    let spec = fixture.spec().expect("fine");
    let process = spec.process().as_ref().expect("set");
    assert_eq!(process.apparmor_profile().as_deref(), Some("coracle-default"));
    assert_eq!(
        process.selinux_label().as_deref(),
        Some("system_u:system_r:container_t:s0:c1,c2")
    );
    let mount = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().clone());
    assert_eq!(
        mount.as_deref(),
        Some("system_u:object_r:container_file_t:s0:c1,c2")
    );
}

#[test]
fn limits_bend_to_the_node() {
    let mut fixture = Fixture::ordinary();
    fixture.host.swap_limit = false;
    fixture.host.hugetlb = false;
    fixture.host.lowest_oom_score_adj = 0;
    fixture.container.resources.oom_score_adj = -997;
    fixture.host.capabilities.remove("CAP_NET_RAW");
    let spec = fixture.spec().expect("fine");
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().clone())
        .expect("set");
    assert_eq!(resources.memory().as_ref().and_then(|memory| memory.swap()), None);
    assert!(resources.hugepage_limits().is_none());
    let process = spec.process().as_ref().expect("set");
    assert_eq!(process.oom_score_adj(), Some(0));
    let bounding = process
        .capabilities()
        .as_ref()
        .and_then(|sets| sets.bounding().clone())
        .expect("set");
    assert_eq!(bounding.len(), 13);
}

#[test]
fn a_further_process_inherits_all_but_its_arguments_and_terminal() {
    let mut fixture = Fixture::ordinary();
    fixture.container.security.no_new_privs = true;
    let spec = fixture.spec().expect("fine");
    let first = spec.process().as_ref().expect("set");
    let plain = exec_process(&spec, &["id".into()], false);
    assert_eq!(plain.args().as_deref(), Some(&["id".to_owned()][..]));
    assert_eq!(plain.env(), first.env());
    assert_eq!(plain.user(), first.user());
    assert_eq!(plain.cwd(), first.cwd());
    assert_eq!(plain.capabilities(), first.capabilities());
    assert_eq!(plain.no_new_privileges(), Some(true));
    assert_eq!(plain.oom_score_adj(), first.oom_score_adj());
    let terminal = exec_process(&spec, &["sh".into()], true);
    assert_eq!(terminal.terminal(), Some(true));
    let environment = terminal.env().clone().expect("set");
    assert_eq!(
        environment
            .iter()
            .filter(|entry| entry.starts_with("TERM="))
            .count(),
        1
    );
    assert!(environment.contains(&"HOME=/var/lib/nginx".to_owned()));
}

#[test]
fn settings_are_read_as_images_write_them() {
    let json = r#"{"Env":null,"Cmd":["sh"],"Entrypoint":null,"User":"33","Volumes":{"/data":{}},
        "ExposedPorts":{"80/tcp":{}},"WorkingDir":"","Labels":null,"OnBuild":null}"#;
    let settings: ImageSettings = serde_json::from_str(json).expect("JSON of an image");
    assert_eq!(
        (settings.cmd.len(), settings.user.as_str(), settings.volumes.len()),
        (1, "33", 1)
    );
}
