//! The keys of the configuration: the one definition of their names, types, defaults, words and of what
//! may change while the daemon runs. Parsing, `config default`, `config show`, the schema and the table of
//! docs/configuration.md all come from here.

use std::path::PathBuf;

use coracle_engine::api::CgroupDriver;
use coracle_image::Reference;
use coracle_network::AddressPreference;
use coracle_snapshot::Layers;
use coracle_types::Instance;
use ipnet::IpNet;

use super::kinds::{
    Cgroup, Count, Deadline, Group, LogFilter, MetricsAddress, Mode, Pids, Profile, Size, Time,
};
use super::registry::{CredentialTable, NoProxy, OptionalPath, ProxyUrl};
use super::sources::Given;
use super::value::{Setting, Value};
use crate::cli::LogFormat;

/// When a changed value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// At once, when the daemon reads its configuration again.
    Live,
    /// When the daemon is started again.
    Restart,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// With its section: `log.level`.
    pub(crate) name: &'static str,
    /// What it does, a line each.
    pub(crate) doc: &'static [&'static str],
    /// When a change counts.
    pub(crate) effect: Effect,
    /// Whether a value may hold a secret, so that no message repeats it.
    pub(crate) secret: bool,
    /// Whether a value can be; else how to write one.
    pub(crate) check: fn(&Value) -> Result<(), String>,
    /// What its values are, in words.
    #[cfg_attr(not(test), expect(dead_code, reason = "the documentation's table says it"))]
    pub(crate) what: fn() -> String,
    /// What its values are, in JSON Schema.
    pub(crate) schema: fn() -> serde_json::Value,
}

impl Key {
    /// The variable of the environment that sets it.
    pub(crate) fn variable(&self) -> String {
        format!("CORACLE_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Its section, empty for the top, and its name there.
    pub(crate) fn parts(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }

    /// What it does, in one line.
    pub(crate) fn sentence(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// A default may name the values of keys above it.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $name:literal $effect:ident $field:ident: $type:ty = $default:expr;)+) => {
        /// All keys, the sections together.
        pub(crate) static KEYS: &[Key] = &[$(Key {
            name: $name,
            doc: &[$($doc),+],
            effect: Effect::$effect,
            secret: <$type as Setting>::SECRET,
            check: |value| <$type as Setting>::read(value).map(drop),
            what: <$type as Setting>::what,
            schema: <$type as Setting>::schema,
        }),+];

        /// The daemon's configuration.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct Config {
            $($(#[doc = $doc])+ pub(crate) $field: $type,)+
        }

        impl Config {
            /// What was given, and the defaults.
            pub(super) fn settle(given: &Given) -> Self {
                $(let $field: $type = given.get($name).unwrap_or_else(|| $default);)+
                Self { $($field),+ }
            }

            /// Every key with its value as TOML.
            pub(crate) fn values(&self) -> Vec<(&'static Key, String)> {
                KEYS.iter().zip([$(self.$field.write()),+]).collect()
            }

            /// The keys with other values, also where what differs is a secret that is not written.
            pub(crate) fn unequal(&self, other: &Self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.$field != other.$field {
                    names.push($name);
                })+
                names
            }

            /// This one, with what may change while the daemon runs taken from `new`.
            pub(crate) fn with_live_of(&self, new: &Self) -> Self {
                Self {
                    $($field: match Effect::$effect {
                        Effect::Live => new.$field.clone(),
                        Effect::Restart => self.$field.clone(),
                    },)+
                }
            }
        }
    };
}

keys! {
    /// Name in all global objects (cgroups, bridge, nft table), so that two daemons never meet.
    "instance" Restart instance: Instance = Instance::default();

    /// Directory of what outlives a boot: images, layers, records.
    "root" Restart root: PathBuf = "/var/lib/coracle".into();

    /// Directory of what does not; on tmpfs.
    "state" Restart state: PathBuf = "/run/coracle".into();

    /// Socket on which the CRI is served; `coracle.sock` in the state directory unless told otherwise.
    "socket" Restart socket: PathBuf = state.join("coracle.sock");

    /// Group that may use the socket, by name or number. Who can use it can become root on this node.
    "socket_group" Restart socket_group: Group = Group::default();

    /// Permissions of the socket.
    "socket_mode" Restart socket_mode: Mode = Mode(0o660);

    /// Who makes the cgroups of pods: `cgroupfs` is the daemon itself, `systemd` is asked over D-Bus.
    /// The kubelet is told and follows.
    "cgroup.driver" Restart cgroup_driver: CgroupDriver = CgroupDriver::default();

    /// Cgroup of pods that name none; a slice with the systemd driver. Named after the instance.
    "cgroup.default_parent" Restart default_cgroup_parent: Cgroup = match cgroup_driver {
        CgroupDriver::Cgroupfs => Cgroup(format!("/{instance}/pods")),
        CgroupDriver::Systemd => Cgroup(format!("{instance}-pods.slice")),
    };

    /// Cgroup of shims and keeper, never a pod's. Named after the instance.
    "cgroup.runtime" Restart runtime_cgroup: Cgroup = Cgroup(format!("/{instance}.slice"));

    /// Most processes and threads of a container; 0 leaves it to the pod's cgroup, which the kubelet limits.
    "container.pids_limit" Restart pids_limit: Pids = Pids(0);

    /// AppArmor profile of containers that name none, or `RuntimeDefault`, where AppArmor is on. The daemon loads
    /// `coracle-default` itself; another must be in the kernel already.
    "container.apparmor_profile" Restart apparmor_profile: Profile = Profile(coracle_engine::APPARMOR_PROFILE.into());

    /// How long a shim may take to answer what it knows or one system call does. One that does not is killed,
    /// and another takes its pod over; containers run on.
    "shim.call_deadline" Live shim_call_deadline: Deadline = Deadline::seconds(15);

    /// How long a shim may take for what makes or ends containers, mounts and cgroups; likewise.
    "shim.operation_deadline" Live shim_operation_deadline: Deadline = Deadline::seconds(60);

    /// Directory of CNI configurations; the first by name counts, and changes in it are followed.
    "network.conf_dir" Restart cni_conf_dir: PathBuf = "/etc/cni/net.d".into();

    /// Directories of CNI plugins, in the order of the search.
    "network.bin_dirs" Live cni_bin_dirs: Vec<PathBuf> =
        ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(PathBuf::from).to_vec();

    /// Whether a bridge network is made while no CNI configuration is there.
    "network.default_network" Restart default_network: bool = true;

    /// Subnets of that bridge: one of IPv4, one of IPv6, or one of each.
    "network.default_subnets" Restart default_subnets: Vec<IpNet> =
        vec!["10.88.0.0/16".parse().expect("a well-formed network")];

    /// How long one run of a CNI plugin's program may take.
    "network.plugin_deadline" Live plugin_deadline: Time = Time::seconds(60);

    /// Which family's address of a dual-stack pod is its first: `ipv4`, `ipv6`, or `as-given` by the network.
    "network.address_preference" Restart address_preference: AddressPreference = AddressPreference::default();

    /// Directories of hosts.toml trees, as containerd has them; the first that knows a registry counts.
    "registry.config_dirs" Live registry_config_dirs: Vec<PathBuf> =
        ["/etc/coracle/certs.d", "/etc/containerd/certs.d"].map(PathBuf::from).to_vec();

    /// Files in the form of containers-registries.conf(5), version 2, each with its `.d`; a tree's own
    /// directory for a registry is stronger, its `_default` weaker, and `blocked` always counts.
    "registry.registries_conf" Live registries_conf: Vec<PathBuf> = vec!["/etc/containers/registries.conf".into()];

    /// Credentials by registry, or registry and path, for pulls that bring none. The file must not be
    /// readable by others.
    "registry.credentials" Live registry_credentials: CredentialTable = CredentialTable::default();

    /// A file of credentials in Docker's form (`auths`), read at each pull; weaker than the above. Credential
    /// helpers in it are not run.
    "registry.auth_file" Live registry_auth_file: OptionalPath = OptionalPath::default();

    /// Proxy for registries that are asked by HTTPS; the environment's HTTPS_PROXY unless it is given.
    "registry.https_proxy" Live https_proxy: ProxyUrl = ProxyUrl::default();

    /// Proxy for registries that are asked by plain HTTP; the environment's HTTP_PROXY unless it is given.
    "registry.http_proxy" Live http_proxy: ProxyUrl = ProxyUrl::default();

    /// Hosts, domains, addresses and networks that are asked without a proxy, with commas; the environment's
    /// NO_PROXY unless it is given. This machine itself always is.
    "registry.no_proxy" Live no_proxy: NoProxy = NoProxy::default();

    /// Layers of one image that are downloaded at once.
    "registry.max_concurrent_downloads" Live max_concurrent_downloads: Count = Count(3);

    /// Connections that bring layers, of all pulls together.
    "registry.max_connections" Live max_connections: Count = Count(12);

    /// Connections over which one large layer comes; 1 for never more than one.
    "registry.parallel_ranges" Live parallel_ranges: Count = Count(4);

    /// A layer that has more bytes than this to come, and comes slower than it is unpacked, is fetched over
    /// several connections.
    "registry.parallel_above" Live parallel_above: Size = Size(32 << 20);

    /// How often a request to a registry is made before the pull fails.
    "registry.attempts" Live registry_attempts: Count = Count(4);

    /// How long a connection to a registry may take.
    "registry.connect_timeout" Live registry_connect_timeout: Time = Time::seconds(10);

    /// How long a download may bring no byte before it is begun again.
    "registry.stall_timeout" Live registry_stall_timeout: Time = Time::seconds(30);

    /// How long a host that cannot be reached is left alone while another one serves the same registry; it
    /// doubles up to ten times this.
    "registry.host_pause" Live registry_host_pause: Time = Time::seconds(30);

    /// Images that the kubelet must not remove when it makes room.
    "image.pinned" Restart pinned_images: Vec<Reference> = Vec::new();

    /// Directory of image archives (OCI layouts, and what `docker save` writes) that are loaded when the daemon
    /// starts, each once while its images are here.
    "image.archives" Restart image_archives: Option<PathBuf> = None;

    /// Signature policy of the node, as containers-policy.json(5) has it; without one every image is accepted.
    "image.signature_policy" Live signature_policy: Option<PathBuf> = None;

    /// Directory of signature policies of Kubernetes namespaces: `<namespace>.json` there counts in place of
    /// the node's for images that pods of the namespace pull.
    "image.signature_policy_dir" Live signature_policy_dir: Option<PathBuf> = None;

    /// What new layers become: `erofs`, one EROFS file each (Linux 6.12, and no tmpfs); `overlay`, directories
    /// and files; `auto`, one file each where this node can mount it, else directories. Layers that are there
    /// stay what they are.
    "image.snapshotter" Restart snapshotter: Layers = Layers::Auto;

    /// Compressed bytes that one image may have.
    "image.max_download" Restart max_image_download: Size = Size(128 << 30);

    /// Uncompressed bytes that one image may have.
    "image.max_unpacked" Restart max_image_unpacked: Size = Size(256 << 30);

    /// Bytes of each output that an exec of a probe keeps; what is beyond is dropped. CRI asks for 16 MB.
    "exec.max_output" Restart exec_max_output: Size = Size(16_000_000);

    /// How long calls under way may take once the daemon was told to leave; pods run on in any case.
    "shutdown.drain" Restart drain: Time = Time::seconds(5);

    /// Which records are logged: error, warn, info, debug, trace, or a filter by crate such as
    /// `info,coracle_engine=debug`. Shims follow. `coracle log-level` changes it for the moment.
    "log.level" Live log_level: LogFilter = LogFilter("info".to_owned());

    /// How records are written: `text`, `json`, `journald` with fields, or `auto`, which is journald when
    /// the daemon's standard error is the journal and text elsewhere.
    "log.format" Live log_format: LogFormat = LogFormat::default();

    /// Where metrics are served for Prometheus: a unix socket or a port of the loopback; nowhere by default.
    "metrics.address" Live metrics_address: MetricsAddress = MetricsAddress::default();
}
