//! Hostile pods and containers are refused before anything is made.

use coracle_types::container::{Mount, MountPropagation};
use coracle_types::pod::{DnsConfig, PortMapping, Protocol};
use coracle_types::security::{IdMapping, UserNamespace};
use coracle_types::{Kind, Kinded};
use proptest::prelude::*;

use super::*;
use crate::{resolv_conf, stop_signal, validate_container, validate_pod};

type Bend<T> = fn(&mut T);

fn refused_pods() -> Vec<(&'static str, Bend<PodSandboxConfig>)> {
    vec![
        ("metadata.name", |pod| pod.metadata.name.clear()),
        ("metadata.name", |pod| pod.metadata.name = "..".into()),
        ("metadata.uid", |pod| pod.metadata.uid = "../x".into()),
        ("metadata.namespace", |pod| pod.metadata.namespace = "a\nb".into()),
        ("hostname", |pod| pod.hostname = "a\nb".into()),
        ("hostname", |pod| pod.hostname = "x".repeat(65)),
        ("hostname", |pod| pod.hostname = "a b".into()),
        ("log_directory", |pod| pod.log_directory = "logs".into()),
        ("log_directory", |pod| {
            pod.log_directory = "/var/log/../../etc".into()
        }),
        ("dns_config.servers", |pod| {
            pod.dns = Some(dns("10.0.0.1\nnameserver 6.6.6.6", "", ""))
        }),
        ("dns_config.servers", |pod| {
            pod.dns = Some(dns("not-an-address", "", ""))
        }),
        ("dns_config.searches", |pod| {
            pod.dns = Some(dns("", "a.b\nnameserver 6.6.6.6", ""))
        }),
        ("dns_config.options", |pod| {
            pod.dns = Some(dns("", "", "ndots:5 rotate"))
        }),
        ("cgroup_parent", |pod| {
            pod.cgroup_parent = "/kubepods/../../x".into()
        }),
        ("cgroup_parent", |pod| pod.cgroup_parent = "kubepods".into()),
        ("sysctls", |pod| {
            pod.sysctls = [("vm.swappiness".into(), "1".into())].into()
        }),
        ("run_as_group", |pod| pod.security.run_as_group = Some(5)),
        ("run_as_user", |pod| pod.security.run_as_user = Some(1 << 31)),
        ("port_mappings", |pod| {
            pod.port_mappings = vec![port(80), port(80)]
        }),
        ("annotations", |pod| {
            pod.annotations = [("k".into(), "x".repeat(2 << 20))].into()
        }),
        ("labels", |pod| {
            pod.labels = [("a\nb".into(), String::new())].into()
        }),
        ("pid", |pod| pod.security.namespaces.pid = NamespaceMode::Target),
        ("userns", |pod| user(pod, NamespaceMode::Container, &[])),
        ("userns", |pod| user(pod, NamespaceMode::Target, &[])),
        ("userns", |pod| user(pod, NamespaceMode::Pod, &[])),
        ("userns", |pod| {
            user(pod, NamespaceMode::Pod, &[(0, 1000, 10), (10, 2000, 10)])
        }),
        ("userns", |pod| user(pod, NamespaceMode::Pod, &[(1, 1000, 10)])),
        ("userns", |pod| user(pod, NamespaceMode::Pod, &[(0, 1000, 0)])),
        ("userns", |pod| {
            user(pod, NamespaceMode::Pod, &[(0, u32::MAX - 5, 10)])
        }),
    ]
}

fn dns(server: &str, search: &str, option: &str) -> DnsConfig {
    let list = |word: &str| {
        Some(word.to_owned())
            .filter(|word| !word.is_empty())
            .into_iter()
            .collect()
    };
    DnsConfig {
        servers: list(server),
        searches: list(search),
        options: list(option),
    }
}

fn port(host_port: u16) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port,
        host_ip: None,
    }
}

fn user(pod: &mut PodSandboxConfig, mode: NamespaceMode, ranges: &[(u32, u32, u32)]) {
    let map = |(container_id, host_id, length): &(u32, u32, u32)| IdMapping {
        host_id: *host_id,
        container_id: *container_id,
        length: *length,
    };
    let mappings: Vec<_> = ranges.iter().map(map).collect();
    pod.security.namespaces.user = Some(UserNamespace {
        mode,
        uids: mappings.clone(),
        gids: mappings,
    });
}

#[test]
fn hostile_pods_are_refused_by_the_name_of_their_field() {
    validate_pod(&pod()).expect("the fixture is fine");
    for (field, bend) in refused_pods() {
        let mut pod = pod();
        bend(&mut pod);
        let error = validate_pod(&pod).expect_err(field);
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert_eq!(error.kind(), Kind::InvalidArgument, "{field}");
    }
}

#[test]
fn pods_as_critest_and_kubelet_send_them_pass() {
    let mut bare = pod();
    bare.hostname.clear();
    bare.log_directory.clear();
    bare.cgroup_parent.clear();
    bare.dns = Some(dns("10.10.10.10", "google.com", "ndots:8"));
    bare.port_mappings = vec![port(0), port(0), port(12_000)];
    user(&mut bare, NamespaceMode::Node, &[]);
    validate_pod(&bare).expect("fine");
    user(&mut bare, NamespaceMode::Pod, &[(0, 1000, 100_000)]);
    bare.cgroup_parent = "kubepods-besteffort.slice".into();
    bare.dns = Some(dns("fe80::1%eth0", ".", "ndots:5"));
    validate_pod(&bare).expect("fine");
}

fn volume(bend: Bend<Mount>, container: &mut ContainerConfig) {
    let mut mount = Mount {
        container_path: "/data".into(),
        host_path: "/srv".into(),
        ..Default::default()
    };
    bend(&mut mount);
    container.mounts = vec![mount];
}

fn refused_containers() -> Vec<(&'static str, Bend<ContainerConfig>)> {
    vec![
        ("metadata.name", |c| c.metadata.name = "a/b".into()),
        ("image.image", |c| c.image.image.clear()),
        ("command", |c| c.command = vec!["a\0b".into()]),
        ("args", |c| c.args = vec!["x".repeat(1 << 17)]),
        ("in all", |c| c.args = vec!["x".repeat(1 << 16); 100]),
        ("working_dir", |c| c.working_dir = "relative".into()),
        ("working_dir", |c| c.working_dir = "/a\nb".into()),
        ("envs", |c| c.envs = vec![("A=B".into(), Vec::new())]),
        ("envs", |c| c.envs = vec![(String::new(), Vec::new())]),
        ("envs[A]", |c| c.envs = vec![("A".into(), b"x\0y".to_vec())]),
        ("envs[HOME]", |c| {
            c.envs = vec![("HOME".into(), b"/\nroot::0:0::/:/bin/sh".to_vec())]
        }),
        ("log_path", |c| c.log_path = "../../etc/cron.d/x".into()),
        ("log_path", |c| c.log_path = "/etc/cron.d/x".into()),
        ("log_path", |c| c.log_path = "a\nb".into()),
        ("permissions", |c| c.devices[0].permissions = "rwx".into()),
        ("devices", |c| c.devices[0].host_path = "zero".into()),
        ("CDI_devices", |c| c.cdi_devices = vec!["gpu".into()]),
        ("cpuset_cpus", |c| c.resources.cpuset_cpus = "0\n1".into()),
        ("unified", |c| {
            c.resources.unified = [("../cgroup.procs".into(), "0".into())].into()
        }),
        ("unified", |c| {
            c.resources.unified = [("cgroup.freeze".into(), "1".into())].into()
        }),
        ("page_size", |c| {
            c.resources.hugepage_limits[0].page_size = "../2MB".into()
        }),
        ("oom_score_adj", |c| c.resources.oom_score_adj = 1001),
        ("memory_swap", |c| c.resources.memory_swap_limit_in_bytes = 1),
        ("run_as_group", |c| c.security.run_as_group = Some(5)),
        ("run_as_username", |c| c.security.run_as_username = "a\nb".into()),
        ("supplemental_groups", |c| {
            c.security.supplemental_groups = vec![-1]
        }),
        ("masked_paths", |c| c.security.masked_paths = vec!["proc".into()]),
        ("seccomp", |c| {
            c.security.seccomp = Some(SecurityProfile::Localhost(String::new()))
        }),
        ("capabilities", |c| {
            c.security.capabilities.add = vec!["ROOT".into()]
        }),
        ("target_id", |c| c.security.namespaces.pid = NamespaceMode::Target),
    ]
}

fn refused_volumes() -> Vec<(&'static str, Bend<ContainerConfig>)> {
    vec![
        ("container_path", |c| {
            volume(|mount| mount.container_path = "data".into(), c)
        }),
        ("container_path", |c| {
            volume(|mount| mount.container_path = "/data/../../x".into(), c)
        }),
        ("container_path", |c| {
            volume(|mount| mount.container_path = "//.".into(), c)
        }),
        ("host_path", |c| volume(|mount| mount.host_path.clear(), c)),
        ("host_path", |c| {
            volume(|mount| mount.host_path = "/var/../etc".into(), c)
        }),
        ("host_path", |c| volume(|mount| mount.image = image(), c)),
        ("recursive_read_only", |c| {
            volume(|mount| mount.recursive_read_only = true, c)
        }),
        ("propagation", |c| {
            volume(|mount| recursive(mount, MountPropagation::HostToContainer), c)
        }),
        ("propagation", |c| {
            volume(|mount| recursive(mount, MountPropagation::Bidirectional), c)
        }),
        ("mount_options", |c| {
            volume(|mount| mount.mount_options = vec!["suid".into()], c)
        }),
        ("image_sub_path", |c| {
            volume(|mount| image_volume(mount, "../x"), c)
        }),
        ("readonly", |c| {
            volume(
                |mount| {
                    image_volume(mount, "");
                    mount.readonly = false;
                },
                c,
            )
        }),
    ]
}

fn image() -> Option<ImageSpec> {
    Some(ImageSpec {
        image: "sha256:1e".into(),
        ..Default::default()
    })
}

fn image_volume(mount: &mut Mount, sub_path: &str) {
    mount.host_path.clear();
    mount.readonly = true;
    mount.image = image();
    mount.image_sub_path = sub_path.into();
}

fn recursive(mount: &mut Mount, propagation: MountPropagation) {
    mount.readonly = true;
    mount.recursive_read_only = true;
    mount.propagation = propagation;
}

#[test]
fn hostile_containers_are_refused_by_the_name_of_their_field() {
    validate_container(&container()).expect("the fixture is fine");
    for (field, bend) in refused_containers().into_iter().chain(refused_volumes()) {
        let mut container = container();
        bend(&mut container);
        let error = validate_container(&container).expect_err(field);
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert_eq!(error.kind(), Kind::InvalidArgument, "{field}");
    }
}

#[test]
fn an_error_shows_little_of_a_long_value() {
    let mut container = container();
    container.working_dir = "x".repeat(100_000);
    assert!(
        validate_container(&container)
            .expect_err("refused")
            .to_string()
            .len()
            < 300
    );
}

#[test]
fn the_signal_to_stop_is_the_requests_then_the_images() {
    let mut container = container();
    let mut image = ImageSettings {
        stop_signal: "SIGQUIT".into(),
        ..Default::default()
    };
    assert_eq!(stop_signal(&container, &image).expect("fine").number(), 3);
    container.stop_signal = "USR1".parse().ok();
    assert_eq!(stop_signal(&container, &image).expect("fine").number(), 10);
    container.stop_signal = None;
    image.stop_signal = "SIGNOPE".into();
    assert!(stop_signal(&container, &image).is_err());
    image.stop_signal.clear();
    assert_eq!(stop_signal(&container, &image).expect("fine").number(), 15);
}

proptest! {
    #[test]
    fn a_resolver_file_has_the_lines_it_should(
        server in "[0-9a-f.:\\n %]{0,16}", search in "[a-z.\\n\\r ]{0,12}", option in "[a-z:0-9\\n\\t]{0,12}",
    ) {
        let config = dns(&server, &search, &option);
        let pod = PodSandboxConfig { dns: Some(config.clone()), ..pod() };
        if validate_pod(&pod).is_ok() {
            let entries = [&config.servers, &config.searches, &config.options];
            let expected = entries.iter().filter(|list| !list.is_empty()).count();
            prop_assert_eq!(resolv_conf(&config).lines().count(), expected);
        }
    }

    #[test]
    fn a_log_path_that_passes_stays_in_the_logs(log_path in "[a./\\n]{1,16}") {
        let container = ContainerConfig { log_path: log_path.clone(), ..container() };
        if validate_container(&container).is_ok() {
            prop_assert!(!log_path.starts_with('/') && !log_path.contains('\n'));
            prop_assert!(!log_path.split('/').any(|part| part == ".."));
        }
    }

    #[test]
    fn any_text_in_any_field_is_judged_without_panic(text in "\\PC{0,40}|[\\x00-\\x1f/.:=]{0,12}") {
        let mut pod = pod();
        pod.hostname = text.clone();
        pod.cgroup_parent = text.clone();
        pod.sysctls = [(text.clone(), text.clone())].into();
        let _either_way = validate_pod(&pod);
        let mut container = container();
        container.security.run_as_username = text.clone();
        container.security.capabilities.add = vec![text.clone()];
        container.resources.cpuset_cpus = text.clone();
        container.cdi_devices = vec![text];
        let _either_way = validate_container(&container);
    }
}
