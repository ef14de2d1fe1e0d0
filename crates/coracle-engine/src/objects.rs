//! What a pod's ledger notes: kernel objects that do not outlive the boot.

use std::path::PathBuf;

use coracle_types::ContainerId;
use serde::{Deserialize, Serialize};

/// A kernel object that a pod owns outside any process.
///
/// Noted before it is made and struck off after it is gone; removal of one that is gone already
/// succeeds. They are removed last first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "snake_case")]
pub(crate) enum Object {
    /// The shim process, its socket and what it left with the keeper.
    Shim,
    /// A network namespace and the mount that pins it.
    Netns {
        /// Where it is pinned.
        path: PathBuf,
    },
    /// Addresses, links, routes and rules that the network's plugins made.
    Attachment {
        /// Of these it consists, in words, as far as they are known beforehand.
        of: Vec<String>,
    },
    /// The pinned ipc, uts, pid and user namespaces, the pod's init and its shared memory.
    Namespaces {
        /// The directory that the pins lie in.
        path: PathBuf,
    },
    /// A scope of systemd's around a container or the pod's init.
    Scope {
        /// Its unit.
        unit: String,
    },
    /// A container's processes and cgroup.
    Task {
        /// Whose.
        container: ContainerId,
        /// Absolute path in each hierarchy.
        cgroup: String,
    },
}

impl Object {
    /// The word by which people and `audit` know this sort of object.
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Shim => "shim",
            Self::Netns { .. } => "netns",
            Self::Attachment { .. } => "network attachment",
            Self::Namespaces { .. } => "namespaces",
            Self::Scope { .. } => "scope",
            Self::Task { .. } => "cgroup",
        }
    }
}
