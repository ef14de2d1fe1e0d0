//! Images built in memory, as a registry or an OCI layout holds them (OCI image specification 1.1).

use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use coracle_types::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

mod artifact;
pub mod bulk;
mod config;
pub mod critest;
pub mod debian;
mod layer;

pub use config::ImageBuilder;
pub use layer::{Compression, Entry, EntryKind, Layer};

/// The media type of the manifests built here.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A blob with its digest and media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// As the manifest calls it.
    pub media_type: String,
    /// The bytes.
    pub content: Bytes,
}

impl Blob {
    /// A blob of these bytes.
    #[must_use]
    pub fn new(media_type: &str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self {
            digest: digest(&content),
            media_type: media_type.to_owned(),
            content,
        }
    }

    /// Its descriptor, as manifests hold them.
    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.as_str(), "size": self.content.len() })
    }
}

/// SHA-256 of some bytes, written as a digest.
#[must_use]
pub fn digest(content: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(content).into())
}

/// A whole image: layers, configuration, manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The layers from the lowest up, then the configuration.
    blobs: Vec<Blob>,
    manifest: Blob,
}

impl Image {
    /// Puts blobs (layers from the lowest up) and a configuration under one manifest.
    #[must_use]
    pub fn new(layers: Vec<Blob>, config: Blob) -> Self {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let mut blobs = layers;
        blobs.push(config);
        Self {
            blobs,
            manifest: Blob::new(MANIFEST, manifest.to_string()),
        }
    }

    /// Layers from the lowest up, then the configuration.
    #[must_use]
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// The manifest's bytes.
    #[must_use]
    pub fn manifest(&self) -> &Bytes {
        &self.manifest.content
    }

    /// The manifest's media type.
    #[must_use]
    pub fn manifest_type(&self) -> &str {
        &self.manifest.media_type
    }

    /// The manifest's digest: what a reference by digest names.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// The configuration's digest: what CRI calls the image's id.
    #[must_use]
    pub fn id(&self) -> &Digest {
        let config = self.blobs.last().map(|blob| &blob.digest);
        config.unwrap_or(&self.manifest.digest)
    }

    /// Writes an OCI layout (image-layout.md) that names the image `name`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_layout(&self, directory: &Path, name: &str) -> Result<()> {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
        for blob in self.blobs.iter().chain([&self.manifest]) {
            std::fs::write(blobs.join(blob.digest.hex()), &blob.content)?;
        }
        let mut descriptor = self.manifest.descriptor();
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });
        std::fs::write(directory.join("index.json"), index.to_string())?;
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
