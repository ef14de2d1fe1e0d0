//! Small images made in memory.

use std::io::Write;

use coracle_types::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// An image with all its bytes.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) manifest: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) tar: Vec<u8>,
    media_type: String,
}

/// A layer of files; contents that do not compress make large ones.
pub(crate) fn layer(pack: Pack, files: &[(&str, &[u8])]) -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    packed(pack, builder.into_inner().unwrap())
}

/// A layer with a hard link to a file that another layer has.
pub(crate) fn link_layer(link: &str, target: &str) -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    header.set_mode(0o644);
    builder.append_link(&mut header, link, target).unwrap();
    packed(Pack::Gzip, builder.into_inner().unwrap())
}

fn packed(pack: Pack, tar: Vec<u8>) -> Layer {
    let (blob, suffix) = match pack {
        Pack::Plain => (tar.clone(), ""),
        Pack::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&tar).unwrap();
            (encoder.finish().unwrap(), "+gzip")
        }
        Pack::Zstd => (zstd::encode_all(&tar[..], 3).unwrap(), "+zstd"),
    };
    Layer {
        blob,
        tar,
        media_type: format!("{LAYER}{suffix}"),
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Image {
    pub(crate) fn new(label: &str, layers: Vec<Layer>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": {"Cmd": ["sh"], "Env": ["A=1"], "Labels": {"name": label}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                json!({"mediaType": layer.media_type, "digest": digest(&layer.blob), "size": layer.blob.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(&config), "size": config.len()},
            "layers": descriptors,
        });
        Self {
            config,
            layers,
            manifest: manifest.to_string().into_bytes(),
        }
    }

    /// One gzip layer with one file.
    pub(crate) fn small(label: &str) -> Self {
        Self::new(label, vec![layer(Pack::Gzip, &[("file", label.as_bytes())])])
    }

    pub(crate) fn id(&self) -> Digest {
        digest(&self.config)
    }

    pub(crate) fn manifest_digest(&self) -> Digest {
        digest(&self.manifest)
    }

    /// An index with this image for this machine and another for one that does not exist.
    pub(crate) fn index(&self) -> Vec<u8> {
        let config: serde_json::Value = serde_json::from_slice(&self.config).unwrap();
        let entry = |architecture: &serde_json::Value| {
            json!({"mediaType": MANIFEST, "digest": self.manifest_digest(), "size": self.manifest.len(),
                   "platform": {"os": "linux", "architecture": architecture}})
        };
        let index = json!({"schemaVersion": 2, "mediaType": INDEX,
                           "manifests": [entry(&config["architecture"])]});
        index.to_string().into_bytes()
    }

    /// All blobs by digest: configuration and layers.
    pub(crate) fn blobs(&self) -> Vec<(Digest, Vec<u8>)> {
        let layers = self.layers.iter().map(|layer| layer.blob.clone());
        let all = layers.chain(std::iter::once(self.config.clone()));
        all.map(|blob| (digest(&blob), blob)).collect()
    }
}
