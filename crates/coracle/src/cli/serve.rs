//! What `serve` takes.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use coracle_engine::api::CgroupDriver;

/// Options of the daemon; each overrides the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML) [default: /etc/coracle/config.toml when it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Name in all global objects (cgroups, bridge, nft table), so that two daemons never meet
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Directory of what outlives a boot
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of what does not; on tmpfs
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Who makes the cgroups of pods: the daemon itself, or systemd over D-Bus; the kubelet follows
    #[arg(long, value_name = "DRIVER", value_parser = cgroup_drivers())]
    pub(crate) cgroup_driver: Option<CgroupDriver>,
    /// Directory of CNI configurations
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given several times
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,
    /// Directory of hosts.toml trees; may be given several times
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config_dir: Vec<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as coracle_engine=debug
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
    /// How it is logged
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
}

fn cgroup_drivers() -> impl TypedValueParser<Value = CgroupDriver> {
    PossibleValuesParser::new(["cgroupfs", "systemd"]).map(|name| match name.as_str() {
        "systemd" => CgroupDriver::Systemd,
        _ => CgroupDriver::Cgroupfs,
    })
}

/// How log records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Journald when standard error is the journal, else text
    #[default]
    Auto,
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
    /// The journal's own fields, such as CORACLE_POD
    Journald,
}
