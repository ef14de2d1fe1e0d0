//! All that is known of one image, for people: its documents, where its bytes came from, its layers.

use std::sync::Arc;

use coracle_snapshot::{LayerId, Usage};
use coracle_types::Digest;

use crate::assemble::Workshop;
use crate::catalog::Image;
use crate::error::Error;
use crate::manifest::Document;
use crate::origin::Origin;

/// An image with what lies behind it.
#[derive(Debug, Clone)]
pub struct Details {
    /// As lists show it.
    pub image: Arc<Image>,
    /// The manifest or index as it came, by digest, the first that its name led to first.
    pub manifests: Vec<(Digest, Vec<u8>)>,
    /// The configuration as it came.
    pub config: Vec<u8>,
    /// Documents and layers' blobs.
    pub blobs: Vec<Blob>,
    /// What lies on this node, bottom first.
    pub layers: Vec<(LayerId, Usage)>,
}

/// A part of an image as registries have it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// `index`, `manifest`, `configuration` or `layer`.
    pub what: &'static str,
    /// Its digest.
    pub digest: Digest,
    /// Bytes, compressed where it is.
    pub size: u64,
    /// Where it came from; `None` where nobody noted it.
    pub origin: Option<Origin>,
}

/// Reads the documents; blocks.
pub(crate) fn details(workshop: &Workshop, image: Arc<Image>) -> Result<Details, Error> {
    let blob = |what, digest: &Digest, size| Blob {
        what,
        digest: digest.clone(),
        size,
        origin: image.origins.get(digest).cloned(),
    };
    let (mut indexes, mut manifests) = (Vec::new(), Vec::new());
    let mut blobs = Vec::new();
    let mut of_layers = Vec::new();
    for (digest, size) in image.documents.iter().filter(|(digest, _)| **digest != image.id) {
        let bytes = workshop.content.read(digest)?;
        match Document::parse(&bytes, "") {
            Ok(Document::Index(_)) => {
                blobs.insert(0, blob("index", digest, *size));
                indexes.push((digest.clone(), bytes));
            }
            Ok(Document::Manifest(manifest)) => {
                blobs.push(blob("manifest", digest, *size));
                let layers = manifest.layers.iter();
                of_layers.extend(layers.map(|layer| blob("layer", &layer.digest, layer.size)));
                manifests.push((digest.clone(), bytes));
            }
            Err(_) => {}
        }
    }
    let config = workshop.content.read(&image.id)?;
    blobs.push(blob("configuration", &image.id, config.len() as u64));
    blobs.extend(of_layers);
    let layers = image.layers.iter().map(|id| {
        let usage = workshop.snapshots.layer_usage(id).unwrap_or_default();
        (id.clone(), usage)
    });
    Ok(Details {
        layers: layers.collect(),
        manifests: indexes.into_iter().chain(manifests).collect(),
        config,
        blobs,
        image,
    })
}
