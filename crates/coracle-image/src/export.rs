//! Images on their way out: all blobs of an image as files, the original bytes wherever they can be had.
//!
//! Layer blobs are not kept after a pull, so they are fetched again from where they came: the archive
//! that was loaded, or a registry that has the image. Their digests make them the same bytes, and the
//! image keeps its digest. Where that cannot be done, the image is written anew as one layer from its
//! merged tree: the same files, but another image with another digest, and whoever asked is told so.

mod layer_tar;
mod write;

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Seek as _, Write};
use std::sync::Arc;

use bytes::Bytes;
use coracle_types::Digest;
use coracle_types::image::Credentials;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::archive::Archive;
use crate::assemble::{Workshop, blocking};
use crate::catalog::Image;
use crate::decode::Chunks;
use crate::download::Feed;
use crate::error::Error;
use crate::manifest::{Descriptor, Document, LAYER, MANIFEST, written};
use crate::progress::LayerState;
use crate::reference::Reference;
use crate::registry::{Registries, Session};

/// Chunks between network and file.
const CHUNKS: usize = 16;
const BUFFER: usize = 256 << 10;

/// How images are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveForm {
    /// A tar of an OCI layout, with what `docker load` wants beside it.
    Oci,
    /// What `docker save` wrote before version 25: plain layers, named by `manifest.json`.
    Docker,
}

/// What to write.
#[derive(Debug, Clone)]
pub struct SaveRequest {
    /// Images by any of their names; one that is named by a tag keeps that tag only.
    pub names: Vec<String>,
    /// How.
    pub form: ArchiveForm,
    /// Ask no registry.
    pub offline: bool,
    /// For registries that are asked.
    pub credentials: Option<Credentials>,
}

/// An archive on its way out.
#[derive(Debug)]
pub struct Saved {
    /// What differs from the images that were named, in words; said before the bytes come.
    pub notes: Vec<String>,
    /// The archive's bytes; an error ends it.
    pub bytes: mpsc::Receiver<io::Result<Bytes>>,
}

/// An image with all its blobs in files.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) tags: Vec<Reference>,
    pub(crate) manifest: (Digest, Bytes),
    pub(crate) media_type: String,
    pub(crate) config: (Digest, Bytes),
    pub(crate) layers: Vec<(Descriptor, Arc<File>)>,
    /// Of the plain layers.
    pub(crate) diff_ids: Vec<Digest>,
    /// Whether it is the image that was named; else why not.
    pub(crate) note: Option<String>,
}

/// How an image is gathered.
pub(crate) struct Gather<'a> {
    pub(crate) workshop: &'a Arc<Workshop>,
    pub(crate) registries: &'a Registries,
    pub(crate) offline: bool,
    pub(crate) credentials: Option<&'a Credentials>,
}

impl<'a> Gather<'a> {
    /// All blobs of an image, named by `name`.
    pub(crate) async fn image(&self, image: &Arc<Image>, name: &str) -> Result<Parcel, Error> {
        let Kept { manifest, config } = kept(self.workshop, image).await?;
        let Some((digest, bytes, media_type, layers)) = manifest else {
            return self.flat(image, name, "its manifest is not kept").await;
        };
        let mut sources = self.sources(image);
        let mut files = Vec::with_capacity(layers.len());
        for layer in layers {
            match sources.layer(&layer).await {
                Ok(file) => files.push((layer, Arc::new(file))),
                Err(reason) => return self.flat(image, name, &reason).await,
            }
        }
        Ok(Parcel {
            tags: tags(image, name),
            media_type,
            manifest: (digest, bytes),
            diff_ids: diff_ids(&config),
            config: (image.id.clone(), config),
            layers: files,
            note: None,
        })
    }

    /// The image anew, as one layer, for this reason.
    pub(crate) async fn flat(&self, image: &Arc<Image>, name: &str, reason: &str) -> Result<Parcel, Error> {
        let (shop, wanted) = (Arc::clone(self.workshop), Arc::clone(image));
        let flat = blocking("writing an image anew", move || flatten(&shop, &wanted)).await??;
        let note = format!(
            "{name} is written as one layer, since {reason}. The files are the same; the image has a new digest, {}",
            flat.manifest.0
        );
        Ok(Parcel {
            tags: tags(image, name),
            note: Some(note),
            ..flat
        })
    }

    /// Where the layers of an image may be had.
    pub(crate) fn sources<'b>(&'b self, image: &'b Image) -> Sources<'b>
    where
        'a: 'b,
    {
        Sources {
            gather: self,
            image,
            sessions: None,
        }
    }
}

/// Where the blobs of one image's layers may be had.
pub(crate) struct Sources<'a> {
    gather: &'a Gather<'a>,
    image: &'a Image,
    /// With each repository that has the image; made when the first is asked.
    sessions: Option<Vec<Session>>,
}

impl Sources<'_> {
    /// A layer's blob as it was; why it cannot be had, in words.
    pub(crate) async fn layer(&mut self, layer: &Descriptor) -> Result<File, String> {
        if let Some(file) = self.fetch_from_archive(layer).await {
            return Ok(file);
        }
        if self.sessions.is_none() {
            self.sessions = Some(self.open_sessions().await);
        }
        self.fetch_from_registry(layer).await
    }

    /// From the archive that it was loaded from, if that is still there and the same.
    async fn fetch_from_archive(&self, layer: &Descriptor) -> Option<File> {
        let place = self.image.origins.get(&layer.digest)?.archive.clone()?;
        let (shop, layer) = (Arc::clone(self.gather.workshop), layer.clone());
        let read = move || -> Result<File, Error> {
            let archive = Archive::open(&place.path)?;
            let opened = archive.open_file(&place.file);
            let (source, _) = opened.map_err(|error| archive.refused(error.to_string()))?;
            spool(source, &layer, shop.content.unnamed()?).map_err(|error| archive.refused(error.to_string()))
        };
        match blocking("reading an archive", read).await {
            Ok(Ok(file)) => Some(file),
            Ok(Err(error)) | Err(error) => {
                tracing::debug!(%error, "a layer is not taken from the archive that it came from");
                None
            }
        }
    }

    async fn open_sessions(&self) -> Vec<Session> {
        let mut sessions = Vec::new();
        if self.gather.offline {
            return sessions;
        }
        for name in &self.image.repo_digests {
            let Ok(reference) = name.parse::<Reference>() else {
                continue;
            };
            let session = self
                .gather
                .registries
                .session(&reference, self.gather.credentials)
                .await;
            match session {
                Ok(session) => sessions.push(session),
                Err(error) => tracing::debug!(%error, name, "a repository is not asked"),
            }
        }
        sessions
    }

    async fn fetch_from_registry(&self, layer: &Descriptor) -> Result<File, String> {
        let mut said = None;
        for session in self.sessions.iter().flatten() {
            let unnamed = self.gather.workshop.content.unnamed();
            let unnamed = unnamed.map_err(|error| error.to_string())?;
            let state = LayerState::new(layer.digest.clone(), layer.size);
            let (sender, receiver) = mpsc::channel(CHUNKS);
            let wanted = layer.clone();
            let writing = blocking("fetching a layer again", move || {
                spool(Chunks::new(receiver), &wanted, unnamed)
            });
            let mut feed = Feed::new(session, &layer.digest, layer.size, &state);
            let (fed, written) = futures::future::join(feed.run(sender), writing).await;
            match (fed, written) {
                (Err(error), _) => said = Some(error.to_string()),
                (Ok(()), Ok(Ok(file))) => return Ok(file),
                (Ok(()), Ok(Err(error))) => said = Some(error.to_string()),
                (Ok(()), Err(error)) => said = Some(error.to_string()),
            }
        }
        let digest = &layer.digest;
        Err(match said {
            Some(error) => format!("its layer {digest} cannot be fetched again ({error})"),
            None if self.gather.offline => {
                format!("its layer {digest} is kept unpacked only and no registry is asked")
            }
            None => format!("its layer {digest} is kept unpacked only and no registry is known that has it"),
        })
    }
}

/// The tag it was named by; all of them when it was named by digest or id.
fn tags(image: &Image, name: &str) -> Vec<Reference> {
    let named: Option<Reference> = name.parse().ok();
    let tag = named.as_ref().and_then(Reference::repo_tag);
    match tag.filter(|tag| image.repo_tags.contains(tag)) {
        Some(_) => named.into_iter().collect(),
        None => image
            .repo_tags
            .iter()
            .filter_map(|tag| tag.parse().ok())
            .collect(),
    }
}

fn media_type(manifest: &[u8]) -> String {
    let read: Option<Value> = serde_json::from_slice(manifest).ok();
    let written = read.as_ref().and_then(|value| value["mediaType"].as_str());
    written.unwrap_or(MANIFEST).to_owned()
}

fn diff_ids(config: &[u8]) -> Vec<Digest> {
    let read: Value = serde_json::from_slice(config).unwrap_or_default();
    let ids = read["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    ids.iter().filter_map(|id| id.as_str()?.parse().ok()).collect()
}

/// What is kept of an image besides its layers.
pub(crate) struct Kept {
    /// With its media type and layers.
    pub(crate) manifest: Option<(Digest, Bytes, String, Vec<Descriptor>)>,
    pub(crate) config: Bytes,
}

/// Reads it.
pub(crate) async fn kept(workshop: &Arc<Workshop>, image: &Arc<Image>) -> Result<Kept, Error> {
    let (shop, wanted) = (Arc::clone(workshop), Arc::clone(image));
    blocking("reading an image's documents", move || documents(&shop, &wanted)).await?
}

fn documents(workshop: &Workshop, image: &Image) -> Result<Kept, Error> {
    let config = Bytes::from(workshop.content.read(&image.id)?);
    let mut manifest = None;
    for digest in image.documents.keys().filter(|digest| **digest != image.id) {
        let bytes = Bytes::from(workshop.content.read(digest)?);
        if let Ok(Document::Manifest(found)) = Document::parse(&bytes, "")
            && found.config.digest == image.id
        {
            let media_type = media_type(&bytes);
            manifest = Some((digest.clone(), bytes, media_type, found.layers));
            break;
        }
    }
    Ok(Kept { manifest, config })
}

/// Writes a blob to a file, and believes it only when it is the one that the descriptor names; blocks.
fn spool(mut source: impl BufRead, wanted: &Descriptor, file: File) -> io::Result<File> {
    let mut out = Hashing::new(BufWriter::with_capacity(BUFFER, file));
    let copied = io::copy(&mut (&mut source).take(wanted.size + 1), &mut out)?;
    let (digest, mut file) = out.finish()?;
    if copied != wanted.size || digest != wanted.digest {
        let words = format!("it is another blob: {copied} bytes with digest {digest}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    file.rewind()?;
    Ok(file)
}

/// A file that is hashed while it is written.
struct Hashing {
    out: BufWriter<File>,
    hasher: Sha256,
}

impl Hashing {
    fn new(out: BufWriter<File>) -> Self {
        Self {
            out,
            hasher: Sha256::new(),
        }
    }

    fn finish(self) -> io::Result<(Digest, File)> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((Digest::from_sha256(&self.hasher.finalize().into()), file))
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The image's merged tree as an image of one layer; blocks.
fn flatten(workshop: &Workshop, image: &Image) -> Result<Parcel, Error> {
    let config = workshop.content.read(&image.id)?;
    let failed = |source: io::Error| Error::Content {
        operation: "write anew",
        path: image.id.to_string().into(),
        source,
    };
    let view = workshop
        .snapshots
        .view(&image.layers)
        .map_err(|source| Error::Snapshot {
            image: image.id.to_string(),
            source,
        })?;
    let mut out = Hashing::new(BufWriter::with_capacity(BUFFER, workshop.content.unnamed()?));
    layer_tar::write(view, &mut out).map_err(failed)?;
    let (diff_id, mut file) = out.finish().map_err(failed)?;
    let size = file.stream_position().map_err(failed)?;
    file.rewind().map_err(failed)?;
    let layer = Descriptor {
        media_type: LAYER.to_owned(),
        digest: diff_id.clone(),
        size,
        annotations: std::collections::BTreeMap::new(),
    };
    let config = Bytes::from(flat_config(image, &config, &diff_id));
    let id = digest(&config);
    let manifest = Bytes::from(written(&id, config.len() as u64, std::slice::from_ref(&layer)));
    Ok(Parcel {
        tags: Vec::new(),
        media_type: MANIFEST.to_owned(),
        manifest: (digest(&manifest), manifest),
        config: (id, config),
        layers: vec![(layer, Arc::new(file))],
        diff_ids: vec![diff_id],
        note: None,
    })
}

/// The same configuration with one layer, and a history that says how that came.
fn flat_config(image: &Image, config: &[u8], diff_id: &Digest) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(config).unwrap_or_default();
    config["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id]});
    config["history"] = json!([{
        "created": config["created"].as_str().unwrap_or("1970-01-01T00:00:00Z"),
        "created_by": "coracle",
        "comment": format!("all layers of {} as one", image.id),
    }]);
    config.to_string().into_bytes()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}

/// Writes parcels as one archive into a channel, in a thread where that may block.
pub(crate) fn stream(workshop: &Arc<Workshop>, parcels: Vec<Parcel>, form: ArchiveForm) -> Saved {
    let notes = parcels.iter().filter_map(|parcel| parcel.note.clone()).collect();
    let (sender, bytes) = mpsc::channel(CHUNKS);
    let workshop = Arc::clone(workshop);
    tokio::task::spawn_blocking(move || {
        let channel = Channel(sender.clone());
        let out = BufWriter::with_capacity(BUFFER, channel);
        if let Err(error) = write::archive(&workshop, &parcels, form, out) {
            // Whoever reads may have left.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Saved { notes, bytes }
}

/// The writing end of a stream of bytes.
struct Channel(mpsc::Sender<io::Result<Bytes>>);

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len())
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An image that is not here.
pub(crate) fn missing(name: &str) -> Error {
    Error::Missing {
        image: name.to_owned(),
    }
}
