//! What the rest of the house may ask of any snapshotter; overlay directories are the first one.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use coracle_types::{ContainerId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::LayerId;
use crate::store::Layer;
use crate::writer::{LayerWriter, Unpacked};

/// A layer of an image, before it is known whether the node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// SHA-256 of the layer's uncompressed archive, from the image's configuration.
    pub diff_id: Digest,
    /// The layer's place in its image; [`chain_ids`](crate::chain_ids) gives it.
    pub chain_id: Digest,
    /// The reference being pulled, for a snapshotter that fetches content on its own.
    pub image: String,
}

/// What a snapshotter has of a layer.
pub enum Prepared {
    /// All of it.
    Present(Layer),
    /// Nothing: it wants the layer's archive.
    Wanted(LayerWriter),
}

/// What a layer or a writable layer takes of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes, as the file system's blocks count.
    pub bytes: u64,
    /// Files, directories and all else that has an inode.
    pub inodes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

/// What a container's root file system is mounted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writable {
    /// Directories of the image's layers, topmost first; never empty.
    pub lowers: Vec<PathBuf>,
    /// Directory that takes the container's changes; its owner and mode are those of the image's root.
    pub upper: PathBuf,
    /// The overlay's work directory, on the same file system as `upper`.
    pub work: PathBuf,
}

/// Unpacks layers and gives root file systems. All calls block: make them where blocking is allowed.
pub trait Snapshotter: Send + Sync {
    /// Asks for a layer. Never waits for another pull of the same layer: both may be given a writer, and
    /// the one that publishes last gets the other's layer.
    fn prepare(&self, layer: &LayerDescriptor) -> Result<Prepared, Error>;

    /// Turns an image's unpacked layers, bottom first, into the stack that its containers are mounted
    /// from, bottom first: layers that need the ones below them are finished, and a small fix-up layer is
    /// added where directories that a layer only implied would hide the mode, owner or attributes of the
    /// same directory below.
    fn finish_image(&self, layers: Vec<Unpacked>) -> Result<Vec<Layer>, Error>;

    /// Makes a container's writable layer on top of a finished image's layers, bottom first.
    fn rootfs(&self, layers: &[LayerId], container: &ContainerId) -> Result<Writable, Error>;

    /// The merged tree of a finished image's layers, bottom first, read-only, as a descriptor of its
    /// root directory. It lives as long as the descriptor and is mounted nowhere. Whoever holds one keeps
    /// the layers from [`gc`](Self::gc).
    fn view(&self, layers: &[LayerId]) -> Result<OwnedFd, Error>;

    /// Removes a container's writable layer; its bytes are free when this returns. Removing one that
    /// does not exist succeeds.
    fn remove_writable(&self, container: &ContainerId) -> Result<(), Error>;

    /// What a container's writable layer takes now.
    fn writable_usage(&self, container: &ContainerId) -> Result<Usage, Error>;

    /// The containers that have writable layers.
    fn writables(&self) -> Vec<ContainerId>;

    /// What a layer takes, as counted when it was unpacked.
    fn layer_usage(&self, layer: &LayerId) -> Option<Usage>;

    /// Removes every layer that is not in `keep`, not held as a [`Layer`] and not below a writable layer;
    /// their bytes are free when this returns. Tells what was freed.
    fn gc(&self, keep: &HashSet<LayerId>) -> Result<Usage, Error>;
}

/// A layer's uncompressed archive.
pub trait LayerStream: Read + Send {}

impl<T: Read + Send> LayerStream for T {}
