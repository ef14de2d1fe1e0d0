//! A wanted layer: takes its archive, verifies it, publishes it.

use std::sync::Arc;

use coracle_sys::steps::entering;
use coracle_types::Digest;

use crate::erofs::Image;
use crate::error::Error;
use crate::extract::{Extraction, extract};
use crate::id::LayerId;
use crate::limits::Limits;
use crate::merged::Merged;
use crate::record::Made;
use crate::snapshotter::{LayerDescriptor, LayerStream};
use crate::store::{Form, Layer, Staging, Store};

/// Takes a layer's archive. Dropped unused, it leaves nothing.
pub struct LayerWriter {
    store: Arc<Store>,
    descriptor: LayerDescriptor,
    limits: Limits,
    kind: Kind,
}

/// What an archive is verified by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its diff ID.
    Layer,
    /// Its maker, who made it of verified files; the diff ID is the artifact's manifest.
    Artifact,
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
    unpacking: Unpacking,
    descriptor: LayerDescriptor,
}

/// A layer as far as it is unpacked.
pub(crate) enum Unpacking {
    Tree(Extraction),
    Image(Box<Image>),
}

impl Unpacking {
    fn needs_lowers(&self) -> bool {
        match self {
            Self::Tree(extraction) => !extraction.lower_links.is_empty(),
            Self::Image(image) => image.needs_lowers(),
        }
    }

    fn complete(&mut self, diff_id: &Digest, lowers: &mut Merged) -> Result<(), Error> {
        match self {
            Self::Tree(extraction) => extraction.complete(diff_id, lowers),
            Self::Image(image) => image.complete(diff_id, lowers),
        }
    }

    /// Ends what will be layer `id`.
    fn finish(self, id: &LayerId, diff_id: &Digest) -> Result<Made, Error> {
        let made = match self {
            Self::Tree(extraction) => extraction.finish().map(Made::from),
            Self::Image(image) => {
                entering("image_layer.finish");
                image.finish(id.uuid())
            }
        };
        made.map_err(|source| Error::Extract {
            diff_id: diff_id.clone(),
            source,
        })
    }
}

impl LayerWriter {
    pub(crate) fn new(store: &Arc<Store>, descriptor: LayerDescriptor) -> Self {
        Self {
            store: Arc::clone(store),
            limits: store.limits,
            descriptor,
            kind: Kind::Layer,
        }
    }

    pub(crate) fn artifact(store: &Arc<Store>, manifest: &Digest) -> Self {
        let descriptor = LayerDescriptor {
            diff_id: manifest.clone(),
            chain_id: manifest.clone(),
            image: String::new(),
        };
        Self {
            kind: Kind::Artifact,
            ..Self::new(store, descriptor)
        }
    }

    /// Replaces the limits that the snapshotter was opened with.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Unpacks the uncompressed archive while it streams, reads it to its end, and publishes the layer
    /// if the SHA-256 of all of it is the diff ID (an artifact's has none): durably, at once, or not at all. The stream is read on
    /// a thread of its own.
    ///
    /// # Errors
    /// When the stream breaks off, differs from its digest, is refused or cannot be written. Nothing of
    /// the layer is left then.
    pub fn extract(self, archive: impl LayerStream) -> Result<Unpacked, Error> {
        entering("layer.stage");
        let staging = Staging::make(&self.store)?;
        entering("layer.unpack");
        let diff_id = &self.descriptor.diff_id;
        let limits = &self.limits;
        let unpacked = match self.store.form() {
            Form::Trees => {
                let tree = Extraction::new(staging.make_tree()?, limits);
                extract(tree, archive, limits).map(|(tree, digest)| (Unpacking::Tree(tree), digest))
            }
            Form::Images => {
                let image = Image::new(staging.make_image()?, limits);
                extract(image, archive, limits)
                    .map(|(image, digest)| (Unpacking::Image(Box::new(image)), digest))
            }
        };
        let (unpacking, actual) = unpacked.map_err(|source| Error::Extract {
            diff_id: diff_id.clone(),
            source,
        })?;
        if self.kind == Kind::Artifact {
            let id = LayerId::artifact(diff_id.clone());
            let made = unpacking.finish(&id, diff_id)?;
            return staging.publish(id, None, made).map(Unpacked::Whole);
        }
        if actual != *diff_id {
            return Err(Error::DigestMismatch {
                expected: diff_id.clone(),
                actual,
            });
        }
        let descriptor = self.descriptor;
        entering("layer.verified");
        if !unpacking.needs_lowers() {
            let id = LayerId::diff(descriptor.diff_id.clone());
            let made = unpacking.finish(&id, &descriptor.diff_id)?;
            return staging
                .publish(id, Some(&descriptor.chain_id), made)
                .map(Unpacked::Whole);
        }
        Ok(Unpacked::NeedsLowers(PendingLayer {
            staging,
            unpacking,
            descriptor,
        }))
    }
}

impl PendingLayer {
    /// Fills the links in from the layers below.
    pub(crate) fn complete(self, lowers: &mut Merged) -> Result<(Staging, Made, LayerDescriptor), Error> {
        let Self {
            staging,
            mut unpacking,
            descriptor,
        } = self;
        unpacking.complete(&descriptor.diff_id, lowers)?;
        let id = LayerId::chain(descriptor.chain_id.clone());
        let made = unpacking.finish(&id, &descriptor.diff_id)?;
        Ok((staging, made, descriptor))
    }
}
