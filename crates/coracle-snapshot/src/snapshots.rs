//! Overlay directories: the snapshotter of this crate.

mod finish;
mod relocate;
mod view;
mod writable;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_types::{ContainerId, Digest};

use crate::error::Error;
use crate::id::LayerId;
use crate::limits::Limits;
use crate::snapshotter::{Capacity, LayerDescriptor, Layers, Prepared, Snapshotter, Usage, Writable};
use crate::store::{Layer, Store};
use crate::writer::{LayerWriter, Unpacked};

/// Layers and writable layers as directories below one root. Clones share it.
#[derive(Clone)]
pub struct Snapshots {
    store: Arc<Store>,
}

impl Snapshots {
    /// Opens the state below `root`, made if missing, and removes what a crash left half made.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it open.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, Limits::default(), Layers::default())
    }

    /// As [`open`](Self::open), with other limits on layers and another form of new ones.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::NoImages`] where images are wanted and this node cannot mount
    /// them.
    pub fn open_with(root: &Path, limits: Limits, layers: Layers) -> Result<Self, Error> {
        Ok(Self {
            store: Arc::new(Store::open(root, limits, layers)?),
        })
    }

    /// Whether a layer is published here. It may be collected at any time unless it is held.
    #[must_use]
    pub fn has(&self, layer: &LayerId) -> bool {
        self.store.index().layers.contains_key(layer)
    }

    /// Asks for a layer; see [`Snapshotter::prepare`].
    ///
    /// # Errors
    /// None now; other snapshotters may need to ask someone.
    pub fn prepare(&self, layer: &LayerDescriptor) -> Result<Prepared, Error> {
        // Where the layer had to be laid out for its place, that one is meant.
        let ids = [
            LayerId::chain(layer.chain_id.clone()),
            LayerId::diff(layer.diff_id.clone()),
        ];
        let present = ids
            .iter()
            .find_map(|id| self.store.hold(id, Some(&layer.chain_id)));
        Ok(match present {
            Some(present) => Prepared::Present(present),
            None => Prepared::Wanted(LayerWriter::new(&self.store, layer.clone())),
        })
    }

    /// Asks for an artifact's layer; see [`Snapshotter::prepare_artifact`].
    ///
    /// # Errors
    /// None now; as for [`prepare`](Self::prepare).
    pub fn prepare_artifact(&self, manifest: &Digest) -> Result<Prepared, Error> {
        let id = LayerId::artifact(manifest.clone());
        Ok(match self.store.hold(&id, None) {
            Some(present) => Prepared::Present(present),
            None => Prepared::Wanted(LayerWriter::artifact(&self.store, manifest)),
        })
    }

    /// What all layers take.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let index = self.store.index();
        index.layers.values().map(|published| published.usage).sum()
    }

    /// What a layer takes; `None` if it is not here.
    #[must_use]
    pub fn layer_usage(&self, layer: &LayerId) -> Option<Usage> {
        self.store
            .index()
            .layers
            .get(layer)
            .map(|published| published.usage)
    }

    /// All published layers.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerId> {
        self.store.index().layers.keys().cloned().collect()
    }

    /// Looks for damage of a layer; see [`Snapshotter::examine`].
    ///
    /// # Errors
    /// When it cannot be looked at, or cannot be taken off.
    pub fn examine(&self, layer: &LayerId) -> Result<Option<String>, Error> {
        if !self.has(layer) {
            return Ok(None);
        }
        if self.store.damage(layer)?.is_none() {
            return Ok(None);
        }
        // It may have been removed meanwhile, and pulled again.
        let damage = self.store.damage(layer)?;
        if damage.is_none() || !self.has(layer) {
            return Ok(None);
        }
        self.store.take_off(layer)?;
        Ok(damage)
    }

    /// Removes a layer; its bytes are free when this returns. One that is not here is no error.
    ///
    /// # Errors
    /// [`Error::LayerInUse`] while it is held or below a writable layer.
    pub fn remove_layer(&self, layer: &LayerId) -> Result<Usage, Error> {
        self.store.remove_layer(layer)
    }

    /// Removes the layers that nobody needs; see [`Snapshotter::gc`].
    ///
    /// # Errors
    /// When a layer cannot be removed; the others are.
    pub fn gc(&self, keep: &HashSet<LayerId>) -> Result<Usage, Error> {
        self.store.collect(keep)
    }
}

impl Snapshotter for Snapshots {
    fn prepare(&self, layer: &LayerDescriptor) -> Result<Prepared, Error> {
        Self::prepare(self, layer)
    }

    fn prepare_artifact(&self, manifest: &Digest) -> Result<Prepared, Error> {
        Self::prepare_artifact(self, manifest)
    }

    fn finish_image(&self, layers: Vec<Unpacked>) -> Result<Vec<Layer>, Error> {
        Self::finish_image(self, layers)
    }

    fn rootfs(&self, layers: &[LayerId], container: &ContainerId) -> Result<Writable, Error> {
        Self::rootfs(self, layers, container)
    }

    fn view(&self, layers: &[LayerId]) -> Result<OwnedFd, Error> {
        Self::view(self, layers)
    }

    fn lowers(&self, layers: &[LayerId]) -> Result<Vec<PathBuf>, Error> {
        Self::lowers(self, layers)
    }

    fn keep_for(&self, container: &ContainerId, layers: &[LayerId]) -> Result<(), Error> {
        Self::keep_for(self, container, layers)
    }

    fn remove_writable(&self, container: &ContainerId) -> Result<(), Error> {
        Self::remove_writable(self, container)
    }

    fn writable_usage(&self, container: &ContainerId) -> Result<Usage, Error> {
        Self::writable_usage(self, container)
    }

    fn capacity(&self) -> Result<Capacity, Error> {
        Self::capacity(self)
    }

    fn writables(&self) -> Vec<ContainerId> {
        Self::writables(self)
    }

    fn layer_usage(&self, layer: &LayerId) -> Option<Usage> {
        Self::layer_usage(self, layer)
    }

    fn layers(&self) -> Vec<LayerId> {
        Self::layers(self)
    }

    fn examine(&self, layer: &LayerId) -> Result<Option<String>, Error> {
        Self::examine(self, layer)
    }

    fn usage(&self) -> Usage {
        Self::usage(self)
    }

    fn gc(&self, keep: &HashSet<LayerId>) -> Result<Usage, Error> {
        Self::gc(self, keep)
    }
}

#[cfg(test)]
mod tests;
