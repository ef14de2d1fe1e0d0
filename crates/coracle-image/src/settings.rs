//! What an image says about the process to run in it (OCI image configuration, `config`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The execution parameters of an image, as they stand in its configuration: nothing is checked
/// beyond being text, so whoever uses a field checks it for its purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSettings {
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint, or the program when there is none.
    pub cmd: Vec<String>,
    /// Where the process starts; empty for `/`.
    pub working_dir: String,
    /// Directories that want a volume.
    pub volumes: BTreeSet<String>,
    /// `port/protocol`, for information.
    pub exposed_ports: BTreeSet<String>,
    /// Opaque.
    pub labels: BTreeMap<String, String>,
    /// The signal that stops the process, by name or number; empty for TERM.
    pub stop_signal: String,
}
