//! Space that is kept for the day on which the disk is full: what is removed then must be written down first.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// A removal takes some pages of the database, in two places.
const BYTES: u64 = 512 << 10;

/// A file whose space can be had back at once.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Beside the file that it is for.
    pub(crate) fn of(database: &Path) -> Self {
        Self {
            path: database.with_extension("reserve"),
        }
    }

    /// Takes the space, unless it is taken already. Does nothing on a disk that has too little.
    pub(crate) fn keep(&self) {
        if self.path.exists() {
            return;
        }
        let take = || -> io::Result<()> {
            let file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.path)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, BYTES)?)
        };
        if take().is_err() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Gives the space back; whether there was any.
    pub(crate) fn spend(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}
