//! Where bytes of an image came from, and when.

use std::path::PathBuf;

use coracle_types::time::UnixNanos;
use serde::{Deserialize, Serialize};

/// Where a blob or document of an image came from when it last came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// Registry hosts or mirrors that gave a part of it; empty for an archive.
    pub hosts: Vec<String>,
    /// The archive, where it was loaded.
    pub archive: Option<ArchiveFile>,
    /// When.
    pub at: UnixNanos,
}

/// A file in an archive of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFile {
    /// The archive: a directory or a tar; what a client streamed is called `-`.
    pub path: PathBuf,
    /// Its name in there.
    pub file: String,
}

impl Origin {
    pub(crate) fn hosts(hosts: impl IntoIterator<Item = String>) -> Self {
        Self {
            hosts: hosts.into_iter().collect(),
            archive: None,
            at: UnixNanos::now(),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.archive {
            Some(archive) => write!(f, "archive {}", archive.path.display()),
            None => f.write_str(&self.hosts.join(", ")),
        }
    }
}
