//! From verified documents and layer streams to a published image; pulls and loads share it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use coracle_snapshot::{Layer, LayerDescriptor, LayerWriter, Prepared, Snapshotter, Unpacked, chain_ids};
use coracle_sys::steps::entering;
use coracle_types::Digest;
use coracle_types::time::UnixNanos;

use crate::artifact::ArtifactPlan;
use crate::catalog::{Catalog, Image, Names};
use crate::content::Content;
use crate::decode::{Ahead, BlobError, Budget, Compression, LayerReader};
use crate::error::Error;
use crate::manifest::{Descriptor, ImageConfig};
use crate::origin::Origin;
use crate::platform::Platform;

/// How large images may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Layers of one image; an overlay mount stacks 500, one of which may be a fix-up.
    pub layers: usize,
    /// Compressed bytes of one image.
    pub download: u64,
    /// Uncompressed bytes of one image's layer archives.
    pub unpacked: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 499,
            download: 128 << 30,
            unpacked: 256 << 30,
        }
    }
}

/// All that making an image takes besides its bytes.
pub(crate) struct Workshop {
    pub(crate) snapshots: Arc<dyn Snapshotter>,
    pub(crate) content: Content,
    pub(crate) catalog: Catalog,
    pub(crate) platform: Platform,
    pub(crate) limits: Limits,
    /// Held from the first document written until the image is published, and while documents are
    /// removed.
    pub(crate) documents: tokio::sync::Mutex<()>,
    /// Layers that are being unpacked: whoever needs the same one waits and then finds it.
    unpacking: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// An image whose documents are verified and whose layers are not here yet.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The reference or archive, for errors.
    pub(crate) name: String,
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    /// Blobs of the layers, bottom first.
    pub(crate) layers: Vec<Descriptor>,
    /// Manifest, index and configuration as they came.
    pub(crate) documents: Vec<(Digest, Bytes)>,
    /// Where all of it came from.
    pub(crate) origins: BTreeMap<Digest, Origin>,
    /// Set when it is no image.
    pub(crate) artifact: Option<ArtifactPlan>,
}

/// A layer of a plan.
#[derive(Debug, Clone)]
pub(crate) struct LayerJob {
    pub(crate) blob: Descriptor,
    pub(crate) layer: LayerDescriptor,
    /// `None` where the archive format announces nothing.
    pub(crate) announced: Option<Compression>,
}

impl Plan {
    /// The layers' work, after a look at their number, sizes and types.
    pub(crate) fn jobs(&self, limits: &Limits, announced: Announced) -> Result<Vec<LayerJob>, Error> {
        let limit = |what, found, limit| Error::Limit {
            image: self.name.clone(),
            what,
            found,
            limit,
        };
        if self.layers.len() > limits.layers {
            return Err(limit("layers", self.layers.len() as u64, limits.layers as u64));
        }
        let size = self.download_size();
        if size > limits.download {
            return Err(limit("compressed bytes", size, limits.download));
        }
        let chain = chain_ids(&self.config.diff_ids);
        let parts = self.layers.iter().zip(&self.config.diff_ids).zip(chain);
        parts
            .map(|((blob, diff_id), chain_id)| {
                let announced = match announced {
                    Announced::ByMediaType => Some(Compression::announced(&blob.media_type).map_err(
                        |source| Error::Blob {
                            image: self.name.clone(),
                            layer: blob.digest.clone(),
                            source,
                        },
                    )?),
                    Announced::Nothing => None,
                };
                Ok(LayerJob {
                    blob: blob.clone(),
                    layer: LayerDescriptor {
                        diff_id: diff_id.clone(),
                        chain_id,
                        image: self.name.clone(),
                    },
                    announced,
                })
            })
            .collect()
    }

    pub(crate) fn download_size(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        layers.fold(0, u64::saturating_add)
    }
}

/// Whether layers come with media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    ByMediaType,
    Nothing,
}

/// A layer's stream could not be unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    Blob(BlobError),
    Snapshot(coracle_snapshot::Error),
    Read(std::io::Error),
}

impl Workshop {
    pub(crate) fn new(
        snapshots: Arc<dyn Snapshotter>,
        content: Content,
        catalog: Catalog,
        platform: Platform,
        limits: Limits,
    ) -> Self {
        Self {
            snapshots,
            content,
            catalog,
            platform,
            limits,
            documents: tokio::sync::Mutex::new(()),
            unpacking: Mutex::new(HashMap::new()),
        }
    }

    /// Waits until nobody else unpacks that layer, and keeps others waiting while the guard lives.
    pub(crate) async fn alone_with(&self, diff_id: &Digest) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            unpacking.retain(|_, turn| turn.strong_count() > 0);
            match unpacking.get(diff_id).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    unpacking.insert(diff_id.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// Asks the snapshotter for a layer.
    pub(crate) async fn prepare(self: &Arc<Self>, job: &LayerJob) -> Result<Prepared, Error> {
        let (workshop, layer) = (Arc::clone(self), job.layer.clone());
        let image = job.layer.image.clone();
        blocking("preparing a layer", move || workshop.snapshots.prepare(&layer))
            .await?
            .map_err(|source| Error::Snapshot { image, source })
    }

    /// Stacks the layers, keeps the documents, and makes the image visible: in this order, each
    /// durable before the next.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        plan: Plan,
        unpacked: Vec<Unpacked>,
        names: Vec<Names>,
    ) -> Result<Arc<Image>, Error> {
        let name = plan.name.clone();
        let workshop = Arc::clone(self);
        entering("image.stack");
        let layers: Vec<Layer> = blocking("stacking layers", move || {
            workshop.snapshots.finish_image(unpacked)
        })
        .await?
        .map_err(|source| Error::Snapshot { image: name, source })?;

        let image = self.record(&plan, &layers);
        let _documents = self.documents.lock().await;
        let workshop = Arc::clone(self);
        let documents = plan.documents;
        entering("image.documents");
        blocking("keeping an image's documents", move || {
            let mut all = documents.iter();
            all.try_for_each(|(digest, bytes)| workshop.content.put(digest, bytes))
        })
        .await??;
        entering("image.publish");
        self.catalog.publish(image, names, layers).await
    }

    /// Where this plan's bytes came from; of layers that were here already, what other images know.
    fn origins(&self, plan: &Plan) -> BTreeMap<Digest, Origin> {
        let mut origins = plan.origins.clone();
        let images = self.catalog.list();
        for layer in &plan.layers {
            if !origins.contains_key(&layer.digest)
                && let Some(known) = images.iter().find_map(|image| image.origins.get(&layer.digest))
            {
                origins.insert(layer.digest.clone(), known.clone());
            }
        }
        origins
    }

    fn record(&self, plan: &Plan, layers: &[Layer]) -> Image {
        let usage = layers
            .iter()
            .filter_map(|layer| self.snapshots.layer_usage(layer.id()));
        let documents = plan.documents.iter();
        let documents = documents.map(|(digest, bytes)| (digest.clone(), bytes.len() as u64));
        let documents: BTreeMap<Digest, u64> = documents.collect();
        let document_bytes: u64 = documents.values().sum();
        Image {
            id: plan.id.clone(),
            repo_tags: BTreeSet::new(),
            repo_digests: BTreeSet::new(),
            size: usage.map(|usage| usage.bytes).sum::<u64>() + document_bytes,
            download_size: plan.download_size() + document_bytes,
            layers: layers.iter().map(|layer| layer.id().clone()).collect(),
            settings: plan.config.settings.clone(),
            platform: plan.config.platform.clone(),
            created: plan.config.created.clone(),
            origins: self.origins(plan),
            documents,
            pulled_at: UnixNanos(0),
            artifact: plan.artifact.as_ref().map(|artifact| artifact.kind.clone()),
            pinned: false,
        }
    }
}

/// Unpacks one layer from its blob; blocks. The layer is published only if blob and archive are whole
/// and true.
pub(crate) fn unpack(
    writer: LayerWriter,
    source: impl BufRead + Send,
    job: &LayerJob,
    budget: Arc<Budget>,
) -> Result<Unpacked, UnpackError> {
    let expected = (job.blob.digest.clone(), job.blob.size);
    std::thread::scope(|scope| {
        let ahead = Ahead::start(scope, source, job.blob.size).map_err(UnpackError::Read)?;
        let mut reader =
            LayerReader::new(ahead, expected, job.announced, budget).map_err(UnpackError::Read)?;
        writer
            .extract(&mut reader)
            .map_err(|error| match reader.verdict() {
                Some(refusal) => UnpackError::Blob(refusal),
                None => UnpackError::Snapshot(error),
            })
    })
}

/// Runs what may block where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { operation })
}
