//! OCI artifacts: blobs with titles under a manifest that is no image's.

use bytes::Bytes;
use serde_json::json;

use super::{Blob, Image, MANIFEST};

/// Media type of the configuration that artifacts without one have.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

impl Image {
    /// An artifact of type `kind` with files by title; one without a title has none in its manifest.
    #[must_use]
    pub fn artifact(kind: &str, files: &[(Option<&str>, &[u8])]) -> Self {
        let config = Blob::new(EMPTY, "{}");
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        for (title, content) in files {
            let blob = Blob::new("application/octet-stream", Bytes::copy_from_slice(content));
            let mut descriptor = blob.descriptor();
            if let Some(title) = title {
                descriptor["annotations"] = json!({ "org.opencontainers.image.title": title });
            }
            layers.push(descriptor);
            blobs.push(blob);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": config.descriptor(),
            "layers": layers,
        });
        blobs.push(config);
        Self {
            blobs,
            manifest: Blob::new(MANIFEST, manifest.to_string()),
        }
    }
}
