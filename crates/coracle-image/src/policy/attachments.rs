//! Signatures where registries keep them: the tag `sha256-<digest>.sig`, and OCI referrers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_types::{Digest, Kind, Kinded as _};
use serde::Deserialize;

use super::payload::cut;
use crate::registry::error::RegistryError;
use crate::registry::{Session, Target};

/// Media type of a layer that is a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Artifact type of a manifest of signatures among an image's referrers.
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The annotation of a payload's layer that holds its signature, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Longest payload that is looked at; real ones have a few hundred bytes.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Longest signature in base64; one of RSA with 8192 bits has 1368.
const MAX_SIGNATURE: usize = 4096;
/// Most signatures of one place that are looked at. cosign appends: the last are the newest.
const MAX_SIGNATURES: usize = 128;
/// Most referrers that are looked at.
const MAX_REFERRERS: usize = 16;

/// Where signatures may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Below a tag made of the image's digest.
    Tag,
    /// Among the manifests whose subject is the image.
    Referrers,
}

/// A signature whose payload is still at the registry.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) signature: Vec<u8>,
    digest: Digest,
    size: u64,
}

/// What a place holds, the newest first, and what was wrong with the rest.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) attached: Vec<Attached>,
    pub(super) complaints: Vec<String>,
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(default)]
    layers: Vec<RawLayer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLayer {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawIndex {
    #[serde(default)]
    manifests: Vec<RawReferrer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawReferrer {
    #[serde(default)]
    artifact_type: String,
    digest: String,
}

/// The signatures of a manifest in one place; none is no error.
pub(super) async fn find(session: &Session, place: Place, image: &Digest) -> Result<Found, RegistryError> {
    let mut found = Found::default();
    match place {
        Place::Tag => {
            let tag = Target::Tag(format!("sha256-{}.sig", image.hex()));
            if let Some(bytes) = manifest(session, &tag).await? {
                found.read(&bytes);
            }
        }
        Place::Referrers => {
            for referrer in referrers(session, image).await? {
                if let Some(bytes) = manifest(session, &Target::Digest(referrer)).await? {
                    found.read(&bytes);
                }
            }
        }
    }
    Ok(found)
}

async fn manifest(session: &Session, target: &Target) -> Result<Option<Bytes>, RegistryError> {
    match session.manifest(target).await {
        Ok(fetched) => Ok(Some(fetched.bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// By the registry's list, or by the tag that stands for it where a registry has none (OCI distribution
/// specification, "Referrers tag schema").
async fn referrers(session: &Session, image: &Digest) -> Result<Vec<Digest>, RegistryError> {
    let listed = match session.referrers(image).await {
        Ok(bytes) => Some(bytes),
        Err(error) if error.is_transient() => return Err(error),
        // A registry that does not know the call says so in many ways.
        Err(error) => {
            tracing::debug!(%error, "the registry has no list of referrers");
            manifest(session, &Target::Tag(format!("sha256-{}", image.hex()))).await?
        }
    };
    let index: RawIndex = listed
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(RawIndex {
            manifests: Vec::new(),
        });
    let signatures = index
        .manifests
        .iter()
        .filter(|entry| entry.artifact_type == ARTIFACT);
    Ok(signatures
        .filter_map(|entry| entry.digest.parse().ok())
        .take(MAX_REFERRERS)
        .collect())
}

impl Found {
    fn read(&mut self, manifest: &[u8]) {
        let manifest: RawManifest = match serde_json::from_slice(manifest) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.complain(format!(
                    "a manifest of signatures is malformed: {}",
                    cut(&error.to_string())
                ));
                return;
            }
        };
        let layers = manifest
            .layers
            .iter()
            .rev()
            .filter(|layer| layer.media_type == PAYLOAD);
        for layer in layers {
            if self.attached.len() >= MAX_SIGNATURES {
                self.complain(format!(
                    "there are more than {MAX_SIGNATURES} signatures; older ones do not count"
                ));
                return;
            }
            match attached(layer) {
                Ok(attached) => self.attached.push(attached),
                Err(reason) => self.complain(reason),
            }
        }
    }

    /// A few are enough for a person.
    fn complain(&mut self, reason: String) {
        if self.complaints.len() < 4 {
            self.complaints.push(reason);
        }
    }
}

fn attached(layer: &RawLayer) -> Result<Attached, String> {
    let digest: Digest = layer
        .digest
        .parse()
        .map_err(|_| "a signature's payload has no digest".to_owned())?;
    if layer.size > MAX_PAYLOAD {
        return Err(format!(
            "a signature's payload has {} bytes; at most {MAX_PAYLOAD} are looked at",
            layer.size
        ));
    }
    let annotations = layer.annotations.as_ref();
    let text = annotations
        .and_then(|annotations| annotations.get(SIGNATURE))
        .filter(|text| text.len() <= MAX_SIGNATURE)
        .ok_or_else(|| format!("a payload has no annotation {SIGNATURE}"))?;
    let signature = STANDARD
        .decode(text.trim())
        .map_err(|_| "a signature is not base64".to_owned())?;
    Ok(Attached {
        signature,
        digest,
        size: layer.size,
    })
}

impl Attached {
    /// Its payload, verified against its digest.
    pub(super) async fn payload(&self, session: &Session) -> Result<Bytes, RegistryError> {
        let (payload, _) = session.small_blob(&self.digest, self.size).await?;
        Ok(payload)
    }
}
