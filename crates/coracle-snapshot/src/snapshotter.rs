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

/// What new layers become. Those that are there stay what they are, and both can lie in one stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layers {
    /// Images where this node can mount them, else directories.
    #[default]
    Auto,
    /// A tree of directories and files each.
    Directories,
    /// One EROFS image each: needs Linux 6.12 and a file system that can hold images (not tmpfs).
    Images,
}

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

/// The file system that writable layers lie on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// All bytes.
    pub bytes: u64,
    /// Bytes that may still be written.
    pub bytes_free: u64,
    /// All inodes; 0 where they are made as needed.
    pub inodes: u64,
    /// Inodes that may still be made.
    pub inodes_free: u64,
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

    /// Asks for the layer that holds the files of an artifact, by the digest of its manifest. What its
    /// writer takes is an archive of those files, whose contents the caller has verified while they passed:
    /// such an archive has no digest that anybody knows beforehand.
    fn prepare_artifact(&self, manifest: &Digest) -> Result<Prepared, Error>;

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

    /// What a finished image's layers, bottom first, are mounted from read-only: directories for overlay,
    /// topmost first, never empty. A single one is the merged tree itself. Whoever hands them on keeps the
    /// layers by [`keep_for`](Self::keep_for).
    fn lowers(&self, layers: &[LayerId]) -> Result<Vec<PathBuf>, Error>;

    /// Keeps layers from [`gc`](Self::gc) for a container that has a writable layer, until that is removed,
    /// also over a restart of the process. Replaces what was kept for it before.
    fn keep_for(&self, container: &ContainerId, layers: &[LayerId]) -> Result<(), Error>;

    /// Removes a container's writable layer; its bytes are free when this returns. Removing one that
    /// does not exist succeeds.
    fn remove_writable(&self, container: &ContainerId) -> Result<(), Error>;

    /// What a container's writable layer takes now.
    fn writable_usage(&self, container: &ContainerId) -> Result<Usage, Error>;

    /// The file system that writable layers lie on, as it is now; one system call.
    fn capacity(&self) -> Result<Capacity, Error>;

    /// The containers that have writable layers.
    fn writables(&self) -> Vec<ContainerId>;

    /// What a layer takes, as counted when it was unpacked.
    fn layer_usage(&self, layer: &LayerId) -> Option<Usage>;

    /// All published layers.
    fn layers(&self) -> Vec<LayerId>;

    /// Looks at every name of a published layer, not at the content of its files. A layer that is not as it
    /// was published is taken off: it is wanted when it is asked for again, and containers that run on it
    /// keep what is left of it until they are removed. Gives the damage in words.
    fn examine(&self, layer: &LayerId) -> Result<Option<String>, Error>;

    /// What all layers take, those counted too that only containers need any more.
    fn usage(&self) -> Usage;

    /// Removes every layer that is not in `keep`, not held as a [`Layer`], not below a writable layer and
    /// not kept for a container; their bytes are free when this returns. Tells what was freed.
    fn gc(&self, keep: &HashSet<LayerId>) -> Result<Usage, Error>;
}

/// A layer's uncompressed archive.
pub trait LayerStream: Read + Send {}

impl<T: Read + Send> LayerStream for T {}
