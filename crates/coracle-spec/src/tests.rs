//! Whole specifications as snapshots, further processes, and validation of hostile requests.

mod specs;
mod validation;

use std::path::{Path, PathBuf};

use coracle_types::container::{ContainerConfig, ContainerMetadata, Device};
use coracle_types::image::ImageSpec;
use coracle_types::pod::{PodSandboxConfig, PodSandboxMetadata};
use coracle_types::resources::{HugepageLimit, LinuxResources};
use coracle_types::security::{NamespaceMode, NamespaceOptions, SecurityProfile};
use coracle_types::{ContainerId, PodSandboxId};
use oci_spec::runtime::Spec;

use crate::capabilities;
use crate::{
    AppArmor, CgroupVersion, ContainerInput, HandlerDefaults, Host, ImageSettings, Paths, ResolvedUser,
    Selinux, SpecError, container_spec,
};

/// A pod, a container in it and a node, to be bent by a test.
struct Fixture {
    id: ContainerId,
    pod_id: PodSandboxId,
    pod: PodSandboxConfig,
    container: ContainerConfig,
    image: ImageSettings,
    user: ResolvedUser,
    paths: Paths,
    defaults: HandlerDefaults,
    host: Host,
    // Stands for the node's `/dev` with nothing in it.
    _dev: tempfile::TempDir,
}

impl Fixture {
    /// As the kubelet asks for an ordinary container on a node with cgroup v2.
    fn ordinary() -> Self {
        let dev = tempfile::tempdir().expect("temporary directory");
        let pins = Path::new("/run/coracle/pods/p/ns");
        let files = Path::new("/run/coracle/pods/p");
        Self {
            id: "c".repeat(64).parse().expect("64 digits"),
            pod_id: "a".repeat(64).parse().expect("64 digits"),
            pod: pod(),
            container: container(),
            image: ImageSettings {
                env: vec![
                    "PATH=/usr/bin:/bin".into(),
                    "NGINX_VERSION=1.29".into(),
                    "MODE=image".into(),
                ],
                entrypoint: vec!["/entrypoint.sh".into()],
                cmd: vec!["nginx".into(), "-g".into(), "daemon off;".into()],
                working_dir: "/srv".into(),
                ..Default::default()
            },
            user: ResolvedUser {
                uid: 101,
                gid: 101,
                additional_gids: vec![101, 2000],
                username: "nginx".into(),
                home: "/var/lib/nginx".into(),
            },
            paths: Paths {
                netns: Some("/run/netns/coracle-p".into()),
                ipc: Some(pins.join("ipc")),
                uts: Some(pins.join("uts")),
                pid: Some(pins.join("pid")),
                user: Some(pins.join("user")),
                resolv_conf: Some(files.join("resolv.conf")),
                hosts: Some(files.join("hosts")),
                hostname: Some(files.join("hostname")),
                shm: Some(files.join("shm")),
                ..Default::default()
            },
            defaults: HandlerDefaults::default(),
            host: Host {
                cgroup: CgroupVersion::V2,
                cgroup_mount_options: vec!["nsdelegate".into(), "memory_recursiveprot".into()],
                apparmor: AppArmor::Absent,
                selinux: Selinux::Absent,
                seccomp: true,
                swap_limit: true,
                hugetlb: true,
                recursive_read_only: true,
                id_mapped_layers: true,
                id_mapped_tmpfs: true,
                capabilities: capabilities::from_mask((1 << 41) - 1),
                lowest_oom_score_adj: -1000,
                kernel: (6, 18),
                hostname: "node-1".into(),
                dev: dev.path().to_path_buf(),
            },
            _dev: dev,
        }
    }

    fn spec(&self) -> Result<Spec, SpecError> {
        container_spec(&ContainerInput {
            id: &self.id,
            pod_id: &self.pod_id,
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            user: &self.user,
            paths: &self.paths,
            cgroup_path: "/kubepods/burstable/podu/cccc",
            defaults: &self.defaults,
            host: &self.host,
        })
    }

    fn both_namespaces(&mut self, options: NamespaceOptions) {
        self.pod.security.namespaces = options.clone();
        self.container.security.namespaces = options;
    }
}

fn pod() -> PodSandboxConfig {
    let mut pod = PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: "web-0".into(),
            uid: "7a4e3f2c".into(),
            namespace: "default".into(),
            attempt: 0,
        },
        hostname: "web-0".into(),
        log_directory: "/var/log/pods/default_web-0_7a4e3f2c".into(),
        cgroup_parent: "/kubepods/burstable/podu".into(),
        ..Default::default()
    };
    pod.security.namespaces.pid = NamespaceMode::Container;
    pod
}

fn container() -> ContainerConfig {
    let masked = [
        "/proc/asound",
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/sys/firmware",
    ];
    let readonly = [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ];
    let mut container = ContainerConfig {
        metadata: ContainerMetadata {
            name: "nginx".into(),
            attempt: 0,
        },
        image: ImageSpec {
            image: "sha256:0f".into(),
            user_specified_image: "docker.io/library/nginx:1.29".into(),
            ..Default::default()
        },
        envs: vec![
            ("MODE".into(), b"request".to_vec()),
            ("CERT".into(), b"two\nlines".to_vec()),
        ],
        log_path: "nginx/0.log".into(),
        devices: vec![Device {
            container_path: "/dev/nought".into(),
            host_path: "/dev/zero".into(),
            permissions: "rw".into(),
        }],
        resources: LinuxResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 256,
            memory_limit_in_bytes: 128 << 20,
            oom_score_adj: 968,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![HugepageLimit {
                page_size: "2MB".into(),
                limit: 0,
            }],
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        },
        ..Default::default()
    };
    container.security.namespaces.pid = NamespaceMode::Container;
    container.security.masked_paths = masked.map(str::to_owned).into();
    container.security.readonly_paths = readonly.map(str::to_owned).into();
    container.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    container
}

/// JSON to compare: sets in order, and of a filter only how many rules it has.
fn shown(spec: &Spec) -> String {
    let mut json = serde_json::to_value(spec).expect("a specification is JSON");
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        if let Some(list) = json["process"]["capabilities"][set].as_array_mut() {
            list.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
    }
    if let Some(rules) = json["linux"]["seccomp"]["syscalls"].as_array() {
        json["linux"]["seccomp"]["syscalls"] = format!("{} rules", rules.len()).into();
    }
    serde_json::to_string_pretty(&json).expect("JSON")
}

fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}
