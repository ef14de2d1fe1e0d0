//! Reading small files of the node, below the tree that is examined.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::Subject;

/// More than any file that is read here has.
const MOST: u64 = 4 << 20;

impl Subject {
    /// Where an absolute path lies in the tree.
    pub(crate) fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.tree.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Whole text of a file; `None` when it cannot be read.
    pub(crate) fn text(&self, absolute: impl AsRef<Path>) -> Option<String> {
        let mut text = String::new();
        let file = std::fs::File::open(self.path(absolute)).ok()?;
        file.take(MOST).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The number that a file holds.
    pub(crate) fn number(&self, absolute: impl AsRef<Path>) -> Option<u64> {
        self.text(absolute)?.trim().parse().ok()
    }

    /// Whether there is something.
    pub(crate) fn has(&self, absolute: impl AsRef<Path>) -> bool {
        self.path(absolute).exists()
    }

    /// Names in a directory, sorted; none when it cannot be read.
    pub(crate) fn names(&self, absolute: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(absolute))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Whether the running user is root.
    pub(crate) fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }
}
