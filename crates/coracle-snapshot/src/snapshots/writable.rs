//! Writable layers: one a container, on the layers of its image.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use coracle_types::ContainerId;
use rustix::fs::fstatvfs;
use rustix::io::Errno;

use super::Snapshots;
use crate::error::Error;
use crate::extract::Attributes;
use crate::id::LayerId;
use crate::record;
use crate::snapshotter::{Capacity, Usage, Writable};
use crate::store::{LOWERS, Staging, VOLUMES, open_directory};
use crate::walk;

const UPPER: &str = "upper";
const WORK: &str = "work";

impl Snapshots {
    /// Makes a container's writable layer, or finds the one that it has on these layers; see
    /// [`Snapshotter::rootfs`](crate::Snapshotter::rootfs). Not synced: what a container writes does not
    /// survive a power loss any more than the container does.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and [`Error::WritableExists`] when it has one on other layers.
    pub fn rootfs(&self, layers: &[LayerId], container: &ContainerId) -> Result<Writable, Error> {
        let stack = self.store.stack(layers)?;
        let lowers = match &stack[..] {
            [] => vec![self.store.empty_path()],
            stack => self.store.lower_paths(stack)?,
        };
        let path = self.store.writable_path(container);
        let writable = Writable {
            lowers,
            upper: path.join(UPPER),
            work: path.join(WORK),
        };
        if let Some(known) = self.store.index().writables.get(container) {
            return if known == layers {
                Ok(writable)
            } else {
                Err(Error::WritableExists(container.clone()))
            };
        }

        let staging = Staging::make(&self.store)?;
        let upper = staging.make_directory(UPPER, 0o755)?;
        staging.make_directory(WORK, 0o700)?;
        if let Some(top) = stack.first() {
            // The topmost layer has the image's root as it is meant: a fix-up layer is made for it.
            Attributes::read(self.store.open_tree(top)?)
                .and_then(|attributes| attributes.write(&upper))
                .map_err(Error::state(
                    "set the owner and mode of",
                    staging.path().join(UPPER),
                ))?;
        }
        record::write(staging.directory(), LOWERS, &layers).map_err(|source| Error::State {
            action: "write",
            path: staging.path().join(LOWERS),
            source,
        })?;
        // Checked again under the lock that the collector takes: from here on it sees the layers' use.
        let mut index = self.store.index();
        if let Some(missing) = layers.iter().find(|layer| !index.layers.contains_key(layer)) {
            return Err(Error::LayerMissing(missing.clone()));
        }
        if !staging.become_writable(container)? {
            return Err(Error::WritableExists(container.clone()));
        }
        index.writables.insert(container.clone(), layers.to_vec());
        Ok(writable)
    }

    /// Keeps layers for a container; see [`Snapshotter::keep_for`](crate::Snapshotter::keep_for). Not synced,
    /// as the writable layer is not.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and [`Error::WritableMissing`] for a container without a writable layer.
    pub fn keep_for(&self, container: &ContainerId, layers: &[LayerId]) -> Result<(), Error> {
        let path = || self.store.writable_path(container);
        let failed = |errno| match errno {
            Errno::NOENT => Error::WritableMissing(container.clone()),
            errno => Error::state("open", path())(errno),
        };
        {
            // Under the lock that the collector takes: from here on it sees their use.
            let mut index = self.store.index();
            if let Some(missing) = layers.iter().find(|layer| !index.layers.contains_key(layer)) {
                return Err(Error::LayerMissing(missing.clone()));
            }
            index.volumes.insert(container.clone(), layers.to_vec());
        }
        let written = open_directory(&self.store.writable, container.as_str())
            .map_err(failed)
            .and_then(|directory| {
                record::replace(directory, VOLUMES, &layers).map_err(|source| Error::State {
                    action: "write",
                    path: path().join(VOLUMES),
                    source,
                })
            });
        if written.is_err() {
            self.store.index().volumes.remove(container);
        }
        written
    }

    /// Removes a container's writable layer with all in it, at once and for good. The overlay must be
    /// unmounted: a mount below the layer is left alone and reported.
    ///
    /// # Errors
    /// When something in it cannot be removed; a further call goes on.
    pub fn remove_writable(&self, container: &ContainerId) -> Result<(), Error> {
        self.store.remove_writable(container)
    }

    /// What a container's changes take now; a walk of all of them.
    ///
    /// # Errors
    /// [`Error::WritableMissing`] if it has no writable layer.
    pub fn writable_usage(&self, container: &ContainerId) -> Result<Usage, Error> {
        let name = format!("{container}/{UPPER}");
        walk::usage(self.store.writable.as_fd(), OsStr::new(&name)).map_err(|error| match error.errno {
            Errno::NOENT => Error::WritableMissing(container.clone()),
            _ => Error::State {
                action: "count",
                path: self.store.writable_path(container),
                source: error.into(),
            },
        })
    }

    /// The file system that writable layers lie on.
    ///
    /// # Errors
    /// What fstatvfs(3) says.
    pub fn capacity(&self) -> Result<Capacity, Error> {
        let found = fstatvfs(&self.store.writable).map_err(|errno| Error::State {
            action: "look at the file system of",
            path: self.store.writable_root(),
            source: errno.into(),
        })?;
        Ok(Capacity {
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            bytes_free: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_favail,
        })
    }

    /// The containers that have writable layers.
    #[must_use]
    pub fn writables(&self) -> Vec<ContainerId> {
        self.store.index().writables.keys().cloned().collect()
    }
}
