//! Images from archives: OCI layouts (directory or tar) and what `docker save` writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use coracle_snapshot::{Prepared, Unpacked};
use coracle_types::Digest;
use coracle_types::time::UnixNanos;
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::assemble::{Announced, LayerJob, Plan, Workshop, blocking, unpack};
use crate::catalog::{Image, MAX_NAMES, Names};
use crate::decode::{BlobError, Budget};
use crate::error::Error;
use crate::inflate::inflated;
use crate::manifest::{Descriptor, Document, ImageConfig, Index, LAYER, MalformedDocument, written};
use crate::origin::{ArchiveFile, Origin};
use crate::platform::Platform;
use crate::pull::unpack_error;
use crate::reference::Reference;
use crate::words::one_line;

/// Most images that one archive may hold.
const MAX_IMAGES: usize = 1000;
const MAX_INDEXES: usize = 2;
/// What marks a layout, and tells its version.
const LAYOUT: &str = "oci-layout";

/// An image of an archive, ready to be unpacked.
struct Found {
    plan: Plan,
    names: Vec<Names>,
    announced: Announced,
    /// The layers' files, as the plan orders them.
    files: Vec<String>,
}

/// An archive to load.
pub(crate) enum Source {
    /// By its name on this node.
    Path(PathBuf),
    /// What a client sent, in a file without a name.
    Sent(File),
}

impl Source {
    /// Opens it; one that is compressed is unpacked first, into a file without a name.
    fn open(self, workshop: &Workshop) -> Result<(Archive, PathBuf), Error> {
        let (file, path) = match self {
            Self::Path(path) => (Archive::open_file_at(&path)?, path),
            Self::Sent(file) => (file, PathBuf::from(SENT)),
        };
        let mut file = inflated(file, &path, workshop)?;
        // Whoever wrote it is at its end.
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            file.rewind().map_err(|error| Error::Archive {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        }
        Ok((Archive::of(file, &path)?, path))
    }
}

/// How an archive that a client sent is called.
const SENT: &str = "-";

pub(crate) async fn load(
    workshop: &Arc<Workshop>,
    source: Source,
    name: Option<&Reference>,
    parallel: usize,
) -> Result<Vec<Arc<Image>>, Error> {
    let (shop, name, platform) = (Arc::clone(workshop), name.cloned(), workshop.platform.clone());
    let (archive, found) = blocking("reading an archive", move || -> Result<_, Error> {
        let (archive, path) = source.open(&shop)?;
        let reading = Reading {
            archive: &archive,
            platform: &platform,
            base: name.as_ref(),
            path: &path,
        };
        let found = if archive.has("index.json") {
            reading.layout()?
        } else if archive.has("manifest.json") {
            reading.docker_archive()?
        } else {
            return Err(
                archive.refused("it has neither index.json (OCI layout) nor manifest.json (docker save)")
            );
        };
        Ok((Arc::new(archive), found))
    })
    .await??;
    if found.is_empty() {
        return Err(archive.refused("it holds no image"));
    }
    let mut images = Vec::with_capacity(found.len());
    for image in found {
        images.push(load_one(workshop, &archive, image, parallel).await?);
    }
    Ok(images)
}

async fn load_one(
    workshop: &Arc<Workshop>,
    archive: &Arc<Archive>,
    found: Found,
    parallel: usize,
) -> Result<Arc<Image>, Error> {
    let jobs = found.plan.jobs(&workshop.limits, found.announced)?;
    let budget = Arc::new(Budget::new(workshop.limits.unpacked));
    let stop = CancellationToken::new();
    let work = jobs.into_iter().zip(found.files).map(|(job, file)| {
        let (archive, budget, stop) = (Arc::clone(archive), Arc::clone(&budget), stop.clone());
        async move {
            if stop.is_cancelled() {
                return Err(Error::Interrupted {
                    operation: "loading a layer",
                });
            }
            layer(workshop, archive, job, file, budget).await
        }
    });
    let mut outcomes = futures::stream::iter(work).buffered(parallel.max(1));
    let mut unpacked = Vec::new();
    let mut failure = None;
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(layer) => unpacked.push(layer),
            // Those that run already are waited for, so that nothing is left behind.
            Err(error) => {
                stop.cancel();
                failure = failure.or(Some(error));
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    workshop.publish(found.plan, unpacked, found.names).await
}

async fn layer(
    workshop: &Arc<Workshop>,
    archive: Arc<Archive>,
    job: LayerJob,
    file: String,
    budget: Arc<Budget>,
) -> Result<Unpacked, Error> {
    let _alone = workshop.alone_with(&job.layer.diff_id).await;
    let writer = match workshop.prepare(&job).await? {
        Prepared::Present(layer) => return Ok(layer.into()),
        Prepared::Wanted(writer) => writer,
    };
    blocking("unpacking a layer", move || {
        let (source, _) = archive
            .open_file(&file)
            .map_err(|error| archive.refused(format!("{file:?}: {error}")))?;
        unpack(writer, source, &job, budget).map_err(|error| match unpack_error(error, &job) {
            // No registry sent it: asking again brings the same.
            Error::Blob {
                layer,
                source: source @ (BlobError::Digest { .. } | BlobError::Length { .. }),
                ..
            } => archive.refused(format!("layer {layer}: {source}")),
            other => other,
        })
    })
    .await?
}

struct Reading<'a> {
    archive: &'a Archive,
    platform: &'a Platform,
    /// What nameless images are called.
    base: Option<&'a Reference>,
    path: &'a Path,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// `oci-layout`.
#[derive(Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Reading<'_> {
    fn origins<'b>(&self, files: impl Iterator<Item = (&'b Digest, String)>) -> BTreeMap<Digest, Origin> {
        let origin = |file| Origin {
            hosts: Vec::new(),
            archive: Some(ArchiveFile {
                path: self.path.to_owned(),
                file,
            }),
            at: UnixNanos::now(),
        };
        files
            .map(|(digest, file)| (digest.clone(), origin(file)))
            .collect()
    }

    fn image_name(&self) -> String {
        self.path.display().to_string()
    }

    fn refuse(&self, source: MalformedDocument) -> Error {
        // The archive is there, it only is not for this node: nothing was sought that is not found.
        if let MalformedDocument::NoPlatform { .. } = source {
            return self.archive.refused(source.to_string());
        }
        Error::Document {
            image: self.image_name(),
            source,
        }
    }

    /// OCI image layout (image-layout.md): `index.json` leads to blobs by digest.
    fn layout(&self) -> Result<Vec<Found>, Error> {
        self.check_version()?;
        let bytes = self.archive.read("index.json")?;
        let top = match Document::parse(&bytes, "").map_err(|source| self.refuse(source))? {
            Document::Index(index) => index,
            Document::Manifest(_) => return Err(self.archive.refused("index.json is no index")),
        };
        if top.manifests.len() > MAX_IMAGES {
            return Err(self
                .archive
                .refused(format!("it holds more than {MAX_IMAGES} images")));
        }
        let runs_here = |platform: &Option<Platform>| {
            platform
                .as_ref()
                .is_none_or(|offered| self.platform.rank(offered).is_some())
        };
        if !top.manifests.is_empty() && !top.manifests.iter().any(|(_, platform)| runs_here(platform)) {
            let refusal = top.select(self.platform).expect_err("no entry runs here");
            return Err(self.refuse(refusal));
        }
        let mut found: Vec<Found> = Vec::new();
        for (entry, _) in top.manifests.iter().filter(|(_, platform)| runs_here(platform)) {
            let image = self.layout_image(entry)?;
            match found.iter_mut().find(|other| other.plan.id == image.plan.id) {
                Some(same) => same.names.extend(image.names),
                None => found.push(image),
            }
        }
        Ok(found)
    }

    /// Of the version that is known, or without one, as some builders leave it (image-layout.md, "oci-layout file").
    fn check_version(&self) -> Result<(), Error> {
        if !self.archive.has(LAYOUT) {
            return Ok(());
        }
        let bytes = self.archive.read(LAYOUT)?;
        let layout: LayoutFile =
            serde_json::from_slice(&bytes).map_err(|error| self.unreadable(LAYOUT, &error))?;
        if layout.version.starts_with("1.") {
            return Ok(());
        }
        let version = one_line(&layout.version, 20);
        Err(self.archive.refused(format!(
            "its {LAYOUT} says version {version:?}, and only 1.0.0 is known: write the archive anew with an older builder"
        )))
    }

    fn unreadable(&self, file: &str, error: &serde_json::Error) -> Error {
        // The parser quotes what it read, whatever that is.
        let words = one_line(&error.to_string(), 120);
        self.archive.refused(format!("{file}: {words}"))
    }

    fn layout_image(&self, entry: &Descriptor) -> Result<Found, Error> {
        let mut documents = Vec::new();
        let mut descriptor = entry.clone();
        let manifest = loop {
            let bytes = self.blob(&descriptor)?;
            let document = Document::parse(&bytes, &descriptor.media_type);
            let document = document.map_err(|source| self.refuse(source))?;
            documents.push((descriptor.digest.clone(), bytes));
            match document {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) if documents.len() <= MAX_INDEXES => {
                    descriptor = self.select(&index)?;
                }
                Document::Index(_) => return Err(self.archive.refused("its indexes lead on and on")),
            }
        };
        let config_bytes = self.blob(&manifest.config)?;
        let config = ImageConfig::parse(&config_bytes, self.platform, manifest.layers.len())
            .map_err(|source| self.refuse(source))?;
        documents.push((manifest.config.digest.clone(), config_bytes));
        let files: Vec<String> = manifest
            .layers
            .iter()
            .map(|layer| blob_path(&layer.digest))
            .collect();
        let named = documents.iter().map(|(digest, _)| (digest, blob_path(digest)));
        let layers = manifest
            .layers
            .iter()
            .map(|layer| (&layer.digest, blob_path(&layer.digest)));
        let origins = self.origins(named.chain(layers));
        Ok(Found {
            names: self.names_of(entry)?,
            plan: Plan {
                name: self.image_name(),
                id: manifest.config.digest,
                config,
                layers: manifest.layers,
                origins,
                documents,
                artifact: None,
            },
            announced: Announced::ByMediaType,
            files,
        })
    }

    fn select(&self, index: &Index) -> Result<Descriptor, Error> {
        let chosen = index
            .select(self.platform)
            .map_err(|source| self.refuse(source))?;
        Ok(chosen.clone())
    }

    /// By the annotations of `index.json`: a whole name, or a mere tag of the base name.
    fn names_of(&self, entry: &Descriptor) -> Result<Vec<Names>, Error> {
        let whole = entry.annotations.get("io.containerd.image.name");
        let short = entry.annotations.get("org.opencontainers.image.ref.name");
        let reference: Option<Reference> = match (whole, short, self.base) {
            (Some(name), _, _) => Some(name.parse()?),
            (None, Some(name), _) if name.contains(['/', ':', '@']) => Some(name.parse()?),
            (None, Some(tag), Some(base)) => Some(format!("{}:{tag}", base.name()).parse()?),
            (None, None, Some(base)) => Some(base.clone()),
            (None, _, None) => None,
        };
        Ok(reference
            .map(|reference| Names {
                tag: reference.repo_tag(),
                digest: Some(reference.repo_digest(&entry.digest)),
            })
            .into_iter()
            .collect())
    }

    /// A small blob of a layout, verified.
    fn blob(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let bytes = self.archive.read(&blob_path(&descriptor.digest))?;
        let found = Digest::from_sha256(&Sha256::digest(&bytes).into());
        if found != descriptor.digest || bytes.len() as u64 != descriptor.size {
            return Err(self.archive.refused(format!(
                "blob {} of {} bytes is damaged: it has {} bytes with digest {found}",
                descriptor.digest,
                descriptor.size,
                bytes.len()
            )));
        }
        Ok(bytes.into())
    }

    /// What `docker save` wrote before it wrote layouts: `manifest.json` names plain files.
    fn docker_archive(&self) -> Result<Vec<Found>, Error> {
        let bytes = self.archive.read("manifest.json")?;
        let images: Vec<DockerImage> =
            serde_json::from_slice(&bytes).map_err(|error| self.unreadable("manifest.json", &error))?;
        if images.len() > MAX_IMAGES {
            return Err(self
                .archive
                .refused(format!("it holds more than {MAX_IMAGES} images")));
        }
        images.into_iter().map(|image| self.docker_image(image)).collect()
    }

    fn docker_image(&self, image: DockerImage) -> Result<Found, Error> {
        let bytes = self.archive.read(&image.config)?;
        let id = Digest::from_sha256(&Sha256::digest(&bytes).into());
        let files = image.layers.unwrap_or_default();
        let config =
            ImageConfig::parse(&bytes, self.platform, files.len()).map_err(|source| self.refuse(source))?;
        let layers: Vec<Descriptor> = files
            .iter()
            .zip(&config.diff_ids)
            .map(|(file, diff_id)| self.docker_layer(file, diff_id))
            .collect::<Result<_, _>>()?;
        // The archive has none: whoever saves or pushes the image needs one.
        let manifest = Bytes::from(written(&id, bytes.len() as u64, &layers));
        let manifest = (Digest::from_sha256(&Sha256::digest(&manifest).into()), manifest);
        let blobs = layers
            .iter()
            .map(|layer| &layer.digest)
            .zip(files.iter().cloned());
        let origins = self.origins(blobs.chain([(&id, image.config.clone())]));
        let names = image.repo_tags.unwrap_or_default();
        if names.len() > MAX_NAMES {
            return Err(self.archive.refused(format!(
                "an image in it has {} names, the limit is {MAX_NAMES}",
                names.len()
            )));
        }
        let names = names
            .iter()
            .map(|tag| tag.parse::<Reference>())
            .collect::<Result<Vec<_>, _>>()?;
        let names: Vec<Reference> = match self.base {
            Some(base) if names.is_empty() => vec![base.clone()],
            _ => names,
        };
        let named = names.iter().map(|name| Names {
            tag: name.repo_tag(),
            digest: None,
        });
        Ok(Found {
            names: named.collect(),
            plan: Plan {
                name: self.image_name(),
                id: id.clone(),
                config,
                layers,
                origins,
                documents: vec![(id, bytes.into()), manifest],
                artifact: None,
            },
            announced: Announced::Nothing,
            files,
        })
    }

    /// The archive gives no digest for a layer: for a plain tar it is the diff ID; a compressed one is
    /// hashed first.
    fn docker_layer(&self, file: &str, diff_id: &Digest) -> Result<Descriptor, Error> {
        let failed = |error: std::io::Error| self.archive.refused(format!("{file:?}: {error}"));
        let (mut source, size) = self.archive.open_file(file).map_err(failed)?;
        let first = source.fill_buf().map_err(failed)?;
        let suffix = match first {
            [0x1f, 0x8b, ..] => "+gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
            _ => "",
        };
        let digest = if !suffix.is_empty() {
            let mut hasher = Sha256::new();
            std::io::copy(&mut source, &mut hasher).map_err(failed)?;
            Digest::from_sha256(&hasher.finalize().into())
        } else {
            diff_id.clone()
        };
        Ok(Descriptor {
            media_type: format!("{LAYER}{suffix}"),
            digest,
            size,
            annotations: BTreeMap::new(),
        })
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
