//! A wanted layer: takes its archive, verifies it, publishes it.

use std::sync::Arc;

use coracle_types::Digest;

use crate::error::Error;
use crate::extract::{Contents, Extraction, extract};
use crate::id::LayerId;
use crate::limits::Limits;
use crate::merged::Merged;
use crate::snapshotter::{LayerDescriptor, LayerStream};
use crate::store::{Layer, Staging, Store};

/// Takes a layer's archive. Dropped unused, it leaves nothing.
pub struct LayerWriter {
    store: Arc<Store>,
    descriptor: LayerDescriptor,
    limits: Limits,
}

/// A layer whose archive was taken.
pub enum Unpacked {
    /// Published; it needs nothing of the layers below.
    Whole(Layer),
    /// It has hard links into the layers below: [`finish_image`](crate::Snapshotter::finish_image)
    /// completes and publishes it. Dropped, it leaves nothing.
    NeedsLowers(PendingLayer),
}

impl From<Layer> for Unpacked {
    fn from(layer: Layer) -> Self {
        Self::Whole(layer)
    }
}

/// A verified layer that waits for those below it.
pub struct PendingLayer {
    staging: Staging,
    extraction: Extraction,
    descriptor: LayerDescriptor,
}

impl LayerWriter {
    pub(crate) fn new(store: &Arc<Store>, descriptor: LayerDescriptor) -> Self {
        Self {
            store: Arc::clone(store),
            limits: store.limits,
            descriptor,
        }
    }

    /// Replaces the limits that the snapshotter was opened with.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Unpacks the uncompressed archive while it streams, reads it to its end, and publishes the layer
    /// if the SHA-256 of all of it is the diff ID: durably, at once, or not at all. The stream is read on
    /// a thread of its own.
    ///
    /// # Errors
    /// When the stream breaks off, differs from its digest, is refused or cannot be written. Nothing of
    /// the layer is left then.
    pub fn extract(self, archive: impl LayerStream) -> Result<Unpacked, Error> {
        let staging = Staging::make(&self.store)?;
        let root = staging.make_tree()?;
        let diff_id = &self.descriptor.diff_id;
        let (extraction, actual) = extract(root, archive, &self.limits).map_err(|source| Error::Extract {
            diff_id: diff_id.clone(),
            source,
        })?;
        if actual != *diff_id {
            return Err(Error::DigestMismatch {
                expected: diff_id.clone(),
                actual,
            });
        }
        let descriptor = self.descriptor;
        if extraction.lower_links.is_empty() {
            let contents = finish(extraction, &descriptor.diff_id)?;
            let id = LayerId::diff(descriptor.diff_id);
            return staging
                .publish(id, Some(&descriptor.chain_id), contents)
                .map(Unpacked::Whole);
        }
        Ok(Unpacked::NeedsLowers(PendingLayer {
            staging,
            extraction,
            descriptor,
        }))
    }
}

impl PendingLayer {
    /// Fills the links in from the layers below.
    pub(crate) fn complete(
        mut self,
        lowers: &mut Merged,
    ) -> Result<(Staging, Contents, LayerDescriptor), Error> {
        self.extraction.complete(&self.descriptor.diff_id, lowers)?;
        let contents = finish(self.extraction, &self.descriptor.diff_id)?;
        Ok((self.staging, contents, self.descriptor))
    }
}

fn finish(extraction: Extraction, diff_id: &Digest) -> Result<Contents, Error> {
    extraction.finish().map_err(|source| Error::Extract {
        diff_id: diff_id.clone(),
        source,
    })
}
