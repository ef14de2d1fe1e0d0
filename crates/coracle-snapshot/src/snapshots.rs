//! Overlay directories: the snapshotter of this crate.

mod finish;
mod relocate;
mod view;
mod writable;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use coracle_types::ContainerId;

use crate::error::Error;
use crate::id::LayerId;
use crate::limits::Limits;
use crate::snapshotter::{LayerDescriptor, Prepared, Snapshotter, Usage, Writable};
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
        Self::open_with(root, Limits::default())
    }

    /// As [`open`](Self::open), with other limits on layers.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(root: &Path, limits: Limits) -> Result<Self, Error> {
        Ok(Self {
            store: Arc::new(Store::open(root, limits)?),
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

    fn finish_image(&self, layers: Vec<Unpacked>) -> Result<Vec<Layer>, Error> {
        Self::finish_image(self, layers)
    }

    fn rootfs(&self, layers: &[LayerId], container: &ContainerId) -> Result<Writable, Error> {
        Self::rootfs(self, layers, container)
    }

    fn view(&self, layers: &[LayerId]) -> Result<OwnedFd, Error> {
        Self::view(self, layers)
    }

    fn remove_writable(&self, container: &ContainerId) -> Result<(), Error> {
        Self::remove_writable(self, container)
    }

    fn writable_usage(&self, container: &ContainerId) -> Result<Usage, Error> {
        Self::writable_usage(self, container)
    }

    fn writables(&self) -> Vec<ContainerId> {
        Self::writables(self)
    }

    fn layer_usage(&self, layer: &LayerId) -> Option<Usage> {
        Self::layer_usage(self, layer)
    }

    fn gc(&self, keep: &HashSet<LayerId>) -> Result<Usage, Error> {
        Self::gc(self, keep)
    }
}

#[cfg(test)]
mod tests;
