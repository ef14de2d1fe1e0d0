//! What is examined, and what the caller knows of it already.

use std::path::PathBuf;

/// A node, by the directories that its daemon has.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Where `/proc`, `/sys` and `/etc` lie: `/`, or a tree that a test made.
    pub tree: PathBuf,
    /// Directory of what outlives a boot.
    pub root: PathBuf,
    /// Directory of what does not.
    pub state: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Directory of CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Directories of CNI plugins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// The kubelet's configuration file.
    pub kubelet_config: PathBuf,
    /// What the daemon said.
    pub daemon: Daemon,
    /// What it goes by; `None` when another runtime answers, whose configuration is not known here.
    pub configuration: Option<Configuration>,
    /// Whether layers of images can be one EROFS file each below `root`.
    pub erofs: Erofs,
}

/// What came of mounting an EROFS image from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erofs {
    /// It can be done.
    There,
    /// Why it cannot, in words.
    Lacking(String),
    /// This user may not mount.
    NotTried,
}

/// What a daemon goes by: in force where one answers, else what one would go by that starts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Whence it is, in words: the running daemon, files, or that everything is as it is by default.
    pub source: String,
    /// What is wrong with what is written, a sentence each.
    pub mistakes: Vec<String>,
    /// What is written and not in force, a sentence each.
    pub pending: Vec<Pending>,
    /// The socket that the daemon listens on.
    pub socket: PathBuf,
    /// Group that may use it, by name or number; empty for none.
    pub socket_group: String,
    /// Who makes cgroups: `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    /// What new layers become, as `image.snapshotter` has it: `auto`, `overlay` or `erofs`.
    pub snapshotter: String,
    /// Directories of hosts.toml trees.
    pub registry_dirs: Vec<PathBuf>,
    /// Whether a bridge is made while no CNI configuration is there.
    pub default_network: bool,
}

/// A value that was written and does not count yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Key and value, and what is in force instead.
    pub words: String,
    /// Whether the daemon must be started again; else it is enough that it reads its configuration.
    pub restart: bool,
}

/// What came of asking the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// It answered.
    Answers {
        /// Name and version of the runtime.
        version: String,
        /// Whether it takes pods.
        conditions: Vec<Condition>,
        /// Who makes cgroups, when it says so.
        cgroup_driver: Option<String>,
    },
    /// It could not be reached, in words.
    Silent(String),
    /// It takes connections and does not answer, in words.
    Hangs(String),
    /// It was not asked: this user may not use its socket.
    Refused,
}

/// A condition of the runtime, as CRI has it: `RuntimeReady`, `NetworkReady`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// Why not.
    pub message: String,
}
