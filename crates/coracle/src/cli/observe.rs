//! What the commands take that look at a node at work: `top`, `events`, `ops`, `explain`, `doctor`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::listing::PickArgs;

/// What pods and containers use.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopArgs {
    /// Only these pods or containers: ids, their beginnings, or names
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) objects: Vec<String>,
    /// What is on top
    #[arg(long, short, value_enum, default_value_t = SortKey::Cpu, value_name = "KEY")]
    pub(crate) sort: SortKey,
    /// Pods only, without their containers
    #[arg(long, short)]
    pub(crate) pods: bool,
    /// One table instead of a live view; always so in a pipe and with --output other than table
    #[arg(long, short = '1')]
    pub(crate) once: bool,
    /// Seconds between two looks
    #[arg(long, short, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}

/// By what `top` sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortKey {
    /// Processor time now
    Cpu,
    /// Working set
    Memory,
    /// Bytes of the writable layer
    Disk,
    /// Bytes received and sent now
    Net,
    /// Time that tasks waited for cpu, memory or io (PSI)
    Pressure,
    /// Name
    Name,
    /// The youngest first
    Age,
}

/// What happens.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventsArgs {
    /// Only of these pods or containers: type=, name=, pod=, namespace=, id=; `*` stands for anything
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Leave after so many events
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) count: Option<u64>,
}

/// What is under way.
#[derive(Debug, Clone, Args)]
pub(crate) struct OpsArgs {
    /// How it is picked and shown.
    #[command(flatten)]
    pub(crate) pick: PickArgs,
}

/// Whose start to explain.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExplainArgs {
    /// Pod, or one of its containers: id, its beginning, or name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) object: String,
    /// Draw it as SVG into a file, or to standard output when none is named
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) svg: Option<PathBuf>,
}

/// What to examine.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Only these parts of the node
    #[arg(value_enum)]
    pub(crate) topics: Vec<DoctorTopic>,
    /// Only what costs something or is broken
    #[arg(long, short)]
    pub(crate) problems: bool,
    /// The daemon's configuration file, when it was started with another than the usual
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of what outlives a boot [default: as configured]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of what does not [default: as configured]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Directory of CNI configurations [default: as configured]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given several times [default: as configured]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,
    /// The kubelet's configuration, to compare cgroup drivers
    #[arg(long, value_name = "FILE", default_value = "/var/lib/kubelet/config.yaml")]
    pub(crate) kubelet_config: PathBuf,
}

/// A part of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoctorTopic {
    /// What the daemon goes by
    Configuration,
    /// What the kernel offers
    Kernel,
    /// Limits and measures of what runs
    Cgroups,
    /// Addresses, links and rules
    Network,
    /// Where images and layers lie
    Storage,
    /// The daemon's socket and who may use it
    Sockets,
    /// What the daemon itself may use
    Limits,
    /// AppArmor, SELinux, seccomp
    Security,
    /// systemd, time
    System,
}
