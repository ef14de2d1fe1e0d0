//! The configuration file: what is written (unknown keys refused), and what it means.

use std::path::{Path, PathBuf};

use anyhow::Context;
use coracle_engine::api::CgroupDriver;
use coracle_types::Instance;
use serde::Deserialize;

use crate::cli::{LogFormat, ServeArgs};

const DEFAULT_FILE: &str = "/etc/coracle/config.toml";

/// The file as it is written; everything may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    instance: Option<Instance>,
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    socket: Option<PathBuf>,
    cgroup: WrittenCgroup,
    network: WrittenNetwork,
    registry: WrittenRegistry,
    log: WrittenLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenCgroup {
    driver: Option<CgroupDriver>,
    default_parent: Option<String>,
    runtime: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenNetwork {
    conf_dir: Option<PathBuf>,
    bin_dirs: Option<Vec<PathBuf>>,
    default_network: Option<bool>,
    default_subnets: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenRegistry {
    config_dirs: Option<Vec<PathBuf>>,
    max_concurrent_downloads: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLog {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// The daemon's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// In the names of all global objects.
    pub(crate) instance: Instance,
    /// What outlives a boot.
    pub(crate) root: PathBuf,
    /// What does not.
    pub(crate) state: PathBuf,
    /// Where the CRI is served.
    pub(crate) socket: PathBuf,
    /// Who makes cgroups.
    pub(crate) cgroup_driver: CgroupDriver,
    /// Cgroup of pods that name none.
    pub(crate) default_cgroup_parent: String,
    /// Cgroup of keeper and shims.
    pub(crate) runtime_cgroup: String,
    /// Directory of CNI configurations.
    pub(crate) cni_conf_dir: PathBuf,
    /// Directories of CNI plugins.
    pub(crate) cni_bin_dirs: Vec<PathBuf>,
    /// Whether a bridge network is made while none is configured.
    pub(crate) default_network: bool,
    /// Its subnets.
    pub(crate) default_subnets: Vec<ipnet::IpNet>,
    /// Directories of hosts.toml trees.
    pub(crate) registry_config_dirs: Vec<PathBuf>,
    /// Layers that are downloaded at once at most.
    pub(crate) max_concurrent_downloads: usize,
    /// What is logged.
    pub(crate) log_level: String,
    /// How.
    pub(crate) log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            instance: Instance::default(),
            root: "/var/lib/coracle".into(),
            state: "/run/coracle".into(),
            socket: crate::cli::DEFAULT_SOCKET.into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            default_cgroup_parent: String::new(),
            runtime_cgroup: String::new(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
                .map(PathBuf::from)
                .to_vec(),
            default_network: true,
            default_subnets: vec!["10.88.0.0/16".parse().expect("a well-formed network")],
            registry_config_dirs: ["/etc/coracle/certs.d", "/etc/containerd/certs.d"]
                .map(PathBuf::from)
                .to_vec(),
            max_concurrent_downloads: 3,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        };
        config.settle_names();
        config
    }
}

impl Config {
    /// Cgroups that are not named yet are named after the instance.
    pub(crate) fn settle_names(&mut self) {
        self.default_cgroup_parent = format!("/{}/pods", self.instance);
        self.runtime_cgroup = format!("/{}.slice", self.instance);
    }

    /// From the file and the command line, which wins.
    ///
    /// # Errors
    /// When a named file cannot be read, or something in it is unknown or malformed.
    pub(crate) fn load(args: ServeArgs, socket: PathBuf) -> anyhow::Result<Self> {
        let written = match &args.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Written::default(),
        };
        Self::settle(written, args, socket)
    }

    fn settle(written: Written, args: ServeArgs, socket: PathBuf) -> anyhow::Result<Self> {
        let mut config = Self::default();
        let instance = args
            .instance
            .map(|name| name.parse().context("--instance"))
            .transpose()?;
        set(&mut config.instance, instance.or(written.instance));
        config.settle_names();
        set(&mut config.root, args.root.or(written.root));
        set(&mut config.state, args.state.or(written.state));
        config.socket = if socket == Path::new(crate::cli::DEFAULT_SOCKET) {
            written
                .socket
                .unwrap_or_else(|| config.state.join("coracle.sock"))
        } else {
            socket
        };
        set(&mut config.cgroup_driver, written.cgroup.driver);
        set(&mut config.default_cgroup_parent, written.cgroup.default_parent);
        set(&mut config.runtime_cgroup, written.cgroup.runtime);
        set(
            &mut config.cni_conf_dir,
            args.cni_conf_dir.or(written.network.conf_dir),
        );
        set(
            &mut config.cni_bin_dirs,
            some_of(args.cni_bin_dir).or(written.network.bin_dirs),
        );
        set(&mut config.default_network, written.network.default_network);
        if let Some(subnets) = written.network.default_subnets {
            let parse = |text: String| {
                text.parse()
                    .with_context(|| format!("network.default_subnets: {text:?}: write it as 10.88.0.0/16"))
            };
            config.default_subnets = subnets.into_iter().map(parse).collect::<Result<_, _>>()?;
        }
        set(
            &mut config.registry_config_dirs,
            some_of(args.registry_config_dir).or(written.registry.config_dirs),
        );
        set(
            &mut config.max_concurrent_downloads,
            written.registry.max_concurrent_downloads,
        );
        set(&mut config.log_level, args.log_level.or(written.log.level));
        set(&mut config.log_format, args.log_format.or(written.log.format));
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (key, path) in [
            ("root", &self.root),
            ("state", &self.state),
            ("socket", &self.socket),
        ] {
            anyhow::ensure!(
                path.is_absolute(),
                "{key}: {} is not absolute: begin it with /",
                path.display()
            );
        }
        for (key, path) in [
            ("cgroup.default_parent", &self.default_cgroup_parent),
            ("cgroup.runtime", &self.runtime_cgroup),
        ] {
            let well_formed = path.starts_with('/') && !path.split('/').any(|part| part == "..");
            anyhow::ensure!(
                well_formed,
                "{key}: {path:?} is no absolute cgroup path: write it as /coracle/pods"
            );
        }
        anyhow::ensure!(
            self.cgroup_driver == CgroupDriver::Cgroupfs,
            "cgroup.driver: systemd is not offered by this version: write cgroupfs"
        );
        anyhow::ensure!(
            self.max_concurrent_downloads > 0,
            "registry.max_concurrent_downloads: 0 pulls nothing"
        );
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Written> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("the configuration {}", path.display()))
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

fn some_of<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, args: ServeArgs) -> anyhow::Result<Config> {
        let written = toml::from_str(text)?;
        Config::settle(written, args, crate::cli::DEFAULT_SOCKET.into())
    }

    #[test]
    fn names_follow_the_instance_and_flags_win_over_the_file() {
        let args = ServeArgs {
            root: Some("/r".into()),
            ..ServeArgs::default()
        };
        let config = load("instance = \"a\"\nroot = \"/file\"\nstate = \"/s\"\n", args).unwrap();
        assert_eq!(config.root, Path::new("/r"));
        assert_eq!(config.socket, Path::new("/s/coracle.sock"));
        assert_eq!(config.default_cgroup_parent, "/a/pods");
        assert_eq!(config.runtime_cgroup, "/a.slice");
    }

    #[test]
    fn what_is_unknown_or_cannot_be_is_refused_by_name() {
        for (text, word) in [
            ("rooot = \"/x\"", "rooot"),
            ("[cgroup]\ndriver = \"systemd\"", "systemd"),
            ("root = \"relative\"", "root"),
            ("[network]\ndefault_subnets = [\"nonsense\"]", "nonsense"),
            ("[cgroup]\nruntime = \"/a/../b\"", "cgroup.runtime"),
        ] {
            let error = format!("{:#}", load(text, ServeArgs::default()).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
