//! The root file system of a container as a detached mount.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What a container's root is made of.
#[derive(Debug)]
pub enum RootfsSource {
    /// A directory that is ready, bound with all that is mounted below it.
    Path(PathBuf),
    /// Read-only layers and a writable directory.
    Overlay {
        /// Layers, the uppermost first.
        lowers: Vec<PathBuf>,
        /// Takes what is written.
        upper: PathBuf,
        /// Work directory of the kernel, on the file system of `upper`.
        work: PathBuf,
        /// A user namespace by whose mapping the layers and `upper` appear (Linux 5.19).
        mapped_by: Option<OwnedFd>,
    },
    /// Read-only layers.
    View {
        /// Layers, the uppermost first.
        lowers: Vec<PathBuf>,
    },
}
