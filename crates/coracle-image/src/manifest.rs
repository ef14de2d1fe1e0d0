//! Manifests, indexes and configurations read from hostile bytes into what a pull needs.

use std::collections::BTreeMap;

use coracle_types::Digest;
use serde::{Deserialize, Deserializer};

use crate::platform::Platform;
use crate::settings::ImageSettings;
use crate::words;

/// Longest manifest, index or configuration that is read, in bytes (OCI distribution
/// specification: registries should take manifests up to 4 MiB).
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Media types of manifests and indexes that are asked for, best first.
pub(crate) const ACCEPTED: [&str; 4] = [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST];
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Base of the media types of layers.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A manifest written for an image that has none, or that is made anew.
pub(crate) fn written(config: &Digest, config_size: u64, layers: &[Descriptor]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size})
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": config_size},
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// A manifest, index or configuration that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedDocument {
    /// It is no JSON of the right form.
    #[error("the {what} is not readable: {reason}")]
    Json {
        /// manifest, index or configuration.
        what: &'static str,
        /// Where and why.
        reason: String,
    },
    /// Schema 1, which no longer has a safe meaning.
    #[error("the image has a schema 1 manifest, which is not supported: push it again with a current tool")]
    SchemaOne,
    /// Both a manifest and an index (CVE-2021-41190).
    #[error("the manifest has both `manifests` and `layers`, so its meaning is not certain")]
    Ambiguous,
    /// Media types disagree (CVE-2021-41190).
    #[error("the manifest is served as {served:?} and calls itself {written:?}")]
    MediaType {
        /// By the header or the descriptor that led here.
        served: String,
        /// By the document itself or its form.
        written: String,
    },
    /// Not an image: an artifact of some other kind.
    #[error("this is an artifact of type {media_type:?}, not an image")]
    NotAnImage {
        /// Type of its configuration.
        media_type: String,
    },
    /// A value that is out of bounds.
    #[error("{field} is {value}: {expected}")]
    Field {
        /// Which, as a path into the document.
        field: &'static str,
        /// The value, cut after 80 characters.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// No image of the index runs here.
    #[error("the image has nothing for {wanted}; it has {offered}")]
    NoPlatform {
        /// The node's platform.
        wanted: String,
        /// What there is.
        offered: String,
    },
}

/// Where content is, how long it is and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A manifest of one image.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// An index of images for several platforms (or, in a layout, of several images).
#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<(Descriptor, Option<Platform>)>,
}

/// Either, told apart by form and media types together.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// What a configuration says, checked.
#[derive(Debug, Clone)]
pub(crate) struct ImageConfig {
    pub(crate) platform: Platform,
    pub(crate) created: String,
    pub(crate) settings: ImageSettings,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Whether bytes that were served with a media type are a manifest or index that a pull would take.
///
/// # Errors
/// Why it would not.
pub fn check(bytes: &[u8], served: &str) -> Result<(), MalformedDocument> {
    Document::parse(bytes, served).map(drop)
}

/// Whether bytes are a configuration that a pull on this machine would take for an image of so many
/// layers.
///
/// # Errors
/// Why it would not.
pub fn check_config(bytes: &[u8], layers: usize) -> Result<(), MalformedDocument> {
    ImageConfig::parse(bytes, &Platform::host(), layers).map(drop)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    /// What the image wants of the node's system besides; `os.version` counts for Windows only.
    #[serde(default, rename = "os.features", deserialize_with = "null_is_default")]
    os_features: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

/// Whether a layer of this type may be left out of registries (OCI image specification, layer.md,
/// "Non-Distributable Layers").
pub(crate) fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The beginning of what a document says.
fn cut(text: &str) -> String {
    words::cut(text, 80)
}

/// A platform as an image wrote it.
fn unquoted(platform: &Platform) -> String {
    words::one_line(&platform.to_string(), 80)
}

fn json(what: &'static str, error: &serde_json::Error) -> MalformedDocument {
    MalformedDocument::Json {
        what,
        reason: cut(&error.to_string()),
    }
}

fn descriptor(raw: RawDescriptor, field: &'static str) -> Result<Descriptor, MalformedDocument> {
    let digest = raw.digest.parse().map_err(|_| MalformedDocument::Field {
        field,
        value: format!("{:?}", cut(&raw.digest)),
        expected: "a digest is sha256: and 64 lower-case hexadecimal digits".to_owned(),
    })?;
    let size = u64::try_from(raw.size).map_err(|_| MalformedDocument::Field {
        field,
        value: raw.size.to_string(),
        expected: "a size is not negative".to_owned(),
    })?;
    Ok(Descriptor {
        media_type: raw.media_type,
        digest,
        size,
        annotations: raw.annotations,
    })
}

impl Document {
    /// Reads a manifest or an index. `served` is the media type by which it came (header or
    /// descriptor); empty when there was none, as in a layout's `index.json`.
    pub(crate) fn parse(bytes: &[u8], served: &str) -> Result<Self, MalformedDocument> {
        let served = served.split(';').next().unwrap_or_default().trim();
        if served.contains("distribution.manifest.v1") {
            return Err(MalformedDocument::SchemaOne);
        }
        let raw: RawDocument = serde_json::from_slice(bytes).map_err(|error| json("manifest", &error))?;
        if raw.schema_version == Some(1) || raw.media_type.contains("distribution.manifest.v1") {
            return Err(MalformedDocument::SchemaOne);
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(MalformedDocument::Ambiguous);
        }
        let is_index = raw.manifests.is_some();
        check_media_type(&raw.media_type, served, is_index)?;
        if let Some(manifests) = raw.manifests {
            return Ok(Self::Index(index(manifests)?));
        }
        let Some(config) = raw.config else {
            return Err(MalformedDocument::Json {
                what: "manifest",
                reason: "it has neither `manifests` nor `config`".to_owned(),
            });
        };
        let config = descriptor(config, "config")?;
        if let Some(media_type) = artifact_type(&raw.artifact_type, &config) {
            return Err(MalformedDocument::NotAnImage { media_type });
        }
        let layers = descriptors(raw.layers)?;
        Ok(Self::Manifest(Manifest { config, layers }))
    }
}

impl Manifest {
    /// Reads the manifest of an artifact: one that [`Document::parse`] says is not an image.
    pub(crate) fn of_artifact(bytes: &[u8]) -> Result<Self, MalformedDocument> {
        let raw: RawDocument = serde_json::from_slice(bytes).map_err(|error| json("manifest", &error))?;
        let config = raw.config.ok_or_else(|| MalformedDocument::Json {
            what: "manifest",
            reason: "it has no `config`".to_owned(),
        })?;
        Ok(Self {
            config: descriptor(config, "config")?,
            layers: descriptors(raw.layers)?,
        })
    }
}

/// What sort of artifact a manifest is of; `None` for an image (OCI image specification, manifest.md,
/// "Guidelines for Artifact Usage").
fn artifact_type(named: &str, config: &Descriptor) -> Option<String> {
    if !named.is_empty() {
        return Some(cut(named));
    }
    let of_image = [CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str());
    (!of_image).then(|| cut(&config.media_type))
}

fn descriptors(raw: Option<Vec<RawDescriptor>>) -> Result<Vec<Descriptor>, MalformedDocument> {
    raw.unwrap_or_default()
        .into_iter()
        .map(|layer| descriptor(layer, "layers"))
        .collect()
}

/// A document's form, its own media type and the type it was served by must tell one story.
fn check_media_type(written: &str, served: &str, is_index: bool) -> Result<(), MalformedDocument> {
    let allowed = if is_index {
        [INDEX, DOCKER_LIST]
    } else {
        [MANIFEST, DOCKER_MANIFEST]
    };
    for media_type in [written, served] {
        if !media_type.is_empty() && !allowed.contains(&media_type) {
            return Err(MalformedDocument::MediaType {
                served: cut(if served.is_empty() { "nothing" } else { served }),
                written: cut(if written.is_empty() { allowed[0] } else { written }),
            });
        }
    }
    if !written.is_empty() && !served.is_empty() && written != served {
        return Err(MalformedDocument::MediaType {
            served: cut(served),
            written: cut(written),
        });
    }
    Ok(())
}

fn index(manifests: Vec<RawDescriptor>) -> Result<Index, MalformedDocument> {
    let manifests = manifests
        .into_iter()
        .map(|mut raw| {
            let platform = raw.platform.take().map(|platform| Platform {
                os: platform.os,
                // What wants more than an image can have here is for another architecture.
                architecture: if platform.os_features.is_empty() {
                    platform.architecture
                } else {
                    format!("{} with features", platform.architecture)
                },
                variant: platform.variant,
            });
            Ok((descriptor(raw, "manifests")?, platform))
        })
        .collect::<Result<_, _>>()?;
    Ok(Index { manifests })
}

impl Index {
    /// The manifest that suits `wanted` best; of equals the first. An entry without a platform is
    /// taken only when no entry has a fitting one (its configuration decides then).
    pub(crate) fn select(&self, wanted: &Platform) -> Result<&Descriptor, MalformedDocument> {
        let is_image = |descriptor: &Descriptor| {
            descriptor.media_type.is_empty() || ACCEPTED.contains(&descriptor.media_type.as_str())
        };
        let mut best: Option<(u32, &Descriptor)> = None;
        for (descriptor, platform) in &self.manifests {
            let rank = platform.as_ref().and_then(|offered| wanted.rank(offered));
            if let Some(rank) = rank.filter(|_| is_image(descriptor))
                && best.is_none_or(|(found, _)| rank > found)
            {
                best = Some((rank, descriptor));
            }
        }
        let unsaid = || {
            let mut entries = self.manifests.iter();
            let found = entries.find(|(entry, platform)| platform.is_none() && is_image(entry));
            found.map(|(entry, _)| entry)
        };
        best.map(|(_, descriptor)| descriptor)
            .or_else(unsaid)
            .ok_or_else(|| MalformedDocument::NoPlatform {
                wanted: wanted.to_string(),
                offered: self.offered(),
            })
    }

    fn offered(&self) -> String {
        let names: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|(_, platform)| platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .take(16)
            .map(unquoted)
            .collect();
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        }
    }
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    variant: String,
    #[serde(default, deserialize_with = "null_is_default")]
    created: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawSettings,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawSettings {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    stop_signal: String,
}

impl ImageConfig {
    /// Reads a configuration and checks that it is for `wanted` and has `layers` diff IDs.
    pub(crate) fn parse(bytes: &[u8], wanted: &Platform, layers: usize) -> Result<Self, MalformedDocument> {
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| json("configuration", &error))?;
        let platform = Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant,
        };
        if wanted.rank(&platform).is_none() {
            return Err(MalformedDocument::NoPlatform {
                wanted: wanted.to_string(),
                offered: unquoted(&platform),
            });
        }
        if raw.rootfs.kind != "layers" {
            return Err(MalformedDocument::Field {
                field: "rootfs.type",
                value: format!("{:?}", cut(&raw.rootfs.kind)),
                expected: "it is always \"layers\"".to_owned(),
            });
        }
        let diff_ids: Vec<Digest> = raw
            .rootfs
            .diff_ids
            .iter()
            .map(|text| {
                text.parse().map_err(|_| MalformedDocument::Field {
                    field: "rootfs.diff_ids",
                    value: format!("{:?}", cut(text)),
                    expected: "a diff ID is sha256: and 64 lower-case hexadecimal digits".to_owned(),
                })
            })
            .collect::<Result<_, _>>()?;
        if diff_ids.len() != layers {
            return Err(MalformedDocument::Field {
                field: "rootfs.diff_ids",
                value: format!("{} long", diff_ids.len()),
                expected: format!("the manifest has {layers} layers"),
            });
        }
        let settings = raw.config;
        Ok(Self {
            platform,
            created: raw.created,
            settings: ImageSettings {
                user: settings.user,
                env: settings.env,
                entrypoint: settings.entrypoint,
                cmd: settings.cmd,
                working_dir: settings.working_dir,
                volumes: settings.volumes.into_keys().collect(),
                exposed_ports: settings.exposed_ports.into_keys().collect(),
                labels: settings.labels,
                stop_signal: settings.stop_signal,
            },
            diff_ids,
        })
    }
}

#[cfg(test)]
mod tests;
