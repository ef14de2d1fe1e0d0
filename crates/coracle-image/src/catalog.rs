//! The images that the node has: records in the database, and the same in memory for every question.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use coracle_snapshot::{Layer, LayerId};
use coracle_store::{Entry, Store, Table};
use coracle_sys::steps::entering;
use coracle_types::Digest;
use coracle_types::time::UnixNanos;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::origin::Origin;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::settings::ImageSettings;

/// Most names of one image: lists show them all, and a list is one message.
pub(crate) const MAX_NAMES: usize = 1000;

/// Shortest beginning of an id that stands for the whole.
const MIN_PREFIX: usize = 4;

/// An image of this node, as its record in the database has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// `name:tag`, sorted.
    pub repo_tags: BTreeSet<String>,
    /// `name@digest`, sorted; the digest is that of the manifest or index which the name led to.
    pub repo_digests: BTreeSet<String>,
    /// Bytes on this node: of its layers (also those shared with other images) and documents.
    pub size: u64,
    /// Compressed bytes that a pull of all of it moves.
    pub download_size: u64,
    /// What its containers' root file systems are mounted from, bottom first.
    pub layers: Vec<LayerId>,
    /// What it says about its process.
    pub settings: ImageSettings,
    /// What it was built for.
    pub platform: Platform,
    /// When it was built, as its configuration says (RFC 3339); may be empty.
    #[serde(default)]
    pub created: String,
    /// Its kept documents and their bytes: configuration, manifests and indexes.
    pub documents: BTreeMap<Digest, u64>,
    /// Where its documents and layers' blobs came from, as far as it is known.
    #[serde(default)]
    pub origins: BTreeMap<Digest, Origin>,
    /// When it last came here by pull or load.
    pub pulled_at: UnixNanos,
    /// The type of an OCI artifact, which is no image: its one layer has its files, and its id is its
    /// manifest's digest, since many artifacts share one configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Never collected by the kubelet; from the configuration, not part of the record.
    #[serde(skip)]
    pub pinned: bool,
}

#[derive(Default)]
struct Index {
    images: BTreeMap<Digest, Arc<Image>>,
    names: HashMap<String, Digest>,
    /// Layers of images that were published since the start, held so that no removal which looked
    /// before the publication takes them.
    held: HashMap<Digest, Vec<Layer>>,
}

impl Index {
    fn insert(&mut self, image: Arc<Image>) {
        self.forget(&image.id);
        for name in image.repo_tags.iter().chain(&image.repo_digests) {
            self.names.insert(name.clone(), image.id.clone());
        }
        self.images.insert(image.id.clone(), image);
    }

    fn forget(&mut self, id: &Digest) -> Option<Arc<Image>> {
        let image = self.images.remove(id)?;
        for name in image.repo_tags.iter().chain(&image.repo_digests) {
            if self.names.get(name) == Some(id) {
                self.names.remove(name);
            }
        }
        Some(image)
    }

    fn by_name(&self, name: &str) -> Option<&Arc<Image>> {
        self.images.get(self.names.get(name)?)
    }

    fn find(&self, name: &str) -> Option<&Arc<Image>> {
        if let Ok(id) = name.parse::<Digest>() {
            return self.images.get(&id);
        }
        if let Ok(reference) = name.parse::<Reference>() {
            let whole = match reference.digest() {
                Some(digest) => reference.repo_digest(digest),
                None => reference.repo_tag().unwrap_or_default(),
            };
            if let Some(image) = self.by_name(&whole) {
                return Some(image);
            }
        }
        self.by_prefix(name.strip_prefix("sha256:").unwrap_or(name))
    }

    fn by_prefix(&self, prefix: &str) -> Option<&Arc<Image>> {
        let hexadecimal = prefix
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !(MIN_PREFIX..=64).contains(&prefix.len()) || !hexadecimal {
            return None;
        }
        let mut found = self.images.iter().filter(|(id, _)| id.hex().starts_with(prefix));
        let (_, image) = found.next()?;
        found.next().is_none().then_some(image)
    }
}

/// A name that an image gets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

/// What images stand on.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) layers: HashSet<LayerId>,
    /// With their bytes.
    pub(crate) documents: HashMap<Digest, u64>,
}

/// All images of the node.
pub(crate) struct Catalog {
    table: Table<Image>,
    /// All records again, for a database that is damaged; `None` keeps none.
    copy: Option<PathBuf>,
    pinned: BTreeSet<String>,
    index: RwLock<Index>,
    /// One change at a time, from reading the index to having changed it.
    change: tokio::sync::Mutex<()>,
}

impl Catalog {
    /// Reads the records. What `is_whole` denies or nobody can read is dropped, with a warning.
    pub(crate) fn open(
        store: &Store,
        copy: Option<PathBuf>,
        pinned: BTreeSet<String>,
        is_whole: impl Fn(&Image) -> Result<(), String>,
    ) -> Result<Self, Error> {
        let table = store.table::<Image>("images");
        let mut records = Vec::new();
        let mut all = table.all()?;
        if let Some(copy) = copy.as_deref().filter(|_| store.replaced().is_some()) {
            all.extend(from_copy(&table, copy)?);
        }
        for (key, record) in all {
            let checked = record.and_then(|image| is_whole(&image).map(|()| image));
            match checked {
                Ok(image) => records.push(image),
                Err(reason) => {
                    tracing::warn!(image = key, reason, "an image is broken and must be pulled again");
                    table.remove(&key).later();
                }
            }
        }
        // A power cut between the two records of a tag's move leaves it on both: the later one has it.
        records.sort_by_key(|image| image.pulled_at);
        let mut index = Index::default();
        for mut image in records {
            for tag in &image.repo_tags {
                let other = index.by_name(tag).map(|other| Image::clone(other));
                if let Some(mut other) = other {
                    other.repo_tags.remove(tag);
                    table.put(other.id.as_str(), &other)?.later();
                    index.insert(Arc::new(other));
                }
            }
            image.pinned = is_pinned(&pinned, &image);
            index.insert(Arc::new(image));
        }
        let catalog = Self {
            table,
            copy,
            pinned,
            index: RwLock::new(index),
            change: tokio::sync::Mutex::new(()),
        };
        if let Some(copy) = &catalog.copy {
            write_copy(copy, &catalog.list());
        }
        Ok(catalog)
    }

    /// Brings the copy up to date; it is worth no failure, being needed only when the database is damaged.
    async fn follow(&self) {
        let Some(copy) = self.copy.clone() else { return };
        entering("image.copy");
        let images = self.list();
        let write = move || write_copy(&copy, &images);
        // Cut off when the daemon leaves: the next start writes it.
        let _ = tokio::task::spawn_blocking(write).await;
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.read().images.values().cloned().collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Image>> {
        self.read().find(name).cloned()
    }

    /// What must not be removed: layers and documents of all images.
    pub(crate) fn in_use(&self) -> InUse {
        let index = self.read();
        let images = index.images.values();
        InUse {
            layers: images
                .clone()
                .flat_map(|image| image.layers.iter().cloned())
                .collect(),
            documents: images
                .flat_map(|image| image.documents.iter())
                .map(|(digest, bytes)| (digest.clone(), *bytes))
                .collect(),
        }
    }

    /// Makes an image visible under `names`, durably. It keeps the names that it had; a tag that
    /// another image had moves over. `held` keeps the image's layers from removal until then and after.
    pub(crate) async fn publish(
        &self,
        mut image: Image,
        names: Vec<Names>,
        held: Vec<Layer>,
    ) -> Result<Arc<Image>, Error> {
        let _one = self.change.lock().await;
        let (before, losers) = {
            let index = self.read();
            (
                index.images.get(&image.id).cloned(),
                losers(&index, &image.id, &names),
            )
        };
        if let Some(before) = &before {
            image.repo_tags.extend(before.repo_tags.iter().cloned());
            image.repo_digests.extend(before.repo_digests.iter().cloned());
            image.documents.extend(before.documents.clone());
            for (digest, origin) in &before.origins {
                image
                    .origins
                    .entry(digest.clone())
                    .or_insert_with(|| origin.clone());
            }
        }
        for name in names {
            image.repo_tags.extend(name.tag);
            image.repo_digests.extend(name.digest);
        }
        let found = image.repo_tags.len() + image.repo_digests.len();
        if found > MAX_NAMES {
            return Err(Error::Limit {
                image: image.id.to_string(),
                what: "names",
                found: found as u64,
                limit: MAX_NAMES as u64,
            });
        }
        image.pulled_at = UnixNanos::now();
        image.pinned = is_pinned(&self.pinned, &image);
        let image = Arc::new(image);
        entering("image.record");
        if let Err(error) = self.write_records(&image, &losers).await {
            // The store tries a failed commit again: it must then find what is so.
            self.undo(&image.id, before.as_deref());
            return Err(error);
        }
        entering("image.show");
        {
            let mut index = self.write();
            for mut loser in losers {
                loser.pinned = is_pinned(&self.pinned, &loser);
                index.insert(Arc::new(loser));
            }
            index.insert(Arc::clone(&image));
            index.held.insert(image.id.clone(), held);
        }
        self.follow().await;
        Ok(image)
    }

    async fn write_records(&self, image: &Image, losers: &[Image]) -> Result<(), Error> {
        let mut tickets = vec![self.table.put(image.id.as_str(), image)?];
        for loser in losers {
            tickets.push(self.table.put(loser.id.as_str(), loser)?);
        }
        for ticket in tickets {
            ticket.durable().await?;
        }
        Ok(())
    }

    fn undo(&self, id: &Digest, before: Option<&Image>) {
        match before {
            Some(before) => {
                if let Ok(ticket) = self.table.put(id.as_str(), before) {
                    ticket.later();
                }
            }
            None => self.table.remove(id.as_str()).later(),
        }
    }

    /// Removes the image of that name with all its names, durably; its layers are left to the caller.
    pub(crate) async fn remove(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        let _one = self.change.lock().await;
        let Some(image) = self.get(name) else {
            return Ok(None);
        };
        entering("image.forget");
        self.table.remove(image.id.as_str()).durable().await?;
        let removed = {
            let mut index = self.write();
            index.held.remove(&image.id);
            index.forget(&image.id)
        };
        self.follow().await;
        Ok(removed)
    }
}

fn write_copy(copy: &Path, images: &[Arc<Image>]) {
    let fresh = copy.with_extension("new");
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec(&images.iter().map(AsRef::as_ref).collect::<Vec<&Image>>())?;
        let mut file = fs::File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, copy)
    };
    if let Err(error) = write() {
        tracing::warn!(%error, path = %copy.display(), "the copy of the images' records is not up to date");
    }
}

/// The records as the copy has them, entered in the new database.
fn from_copy(table: &Table<Image>, copy: &Path) -> Result<Vec<Entry<Image>>, Error> {
    let read = || -> io::Result<Vec<Image>> { Ok(serde_json::from_slice(&fs::read(copy)?)?) };
    let images = read().unwrap_or_else(|error| {
        tracing::error!(%error, path = %copy.display(), "the images' records are lost: they must be pulled again");
        Vec::new()
    });
    for image in &images {
        table.put(image.id.as_str(), image)?.later();
    }
    let count = images.len();
    tracing::warn!(images = count, "the images' records were taken from their copy");
    Ok(images
        .into_iter()
        .map(|image| (image.id.to_string(), Ok(image)))
        .collect())
}

/// The images that lose a tag to image `id`, as they are without it.
fn losers(index: &Index, id: &Digest, names: &[Names]) -> Vec<Image> {
    let mut losers: BTreeMap<&Digest, Image> = BTreeMap::new();
    for tag in names.iter().filter_map(|name| name.tag.as_ref()) {
        if let Some(owner) = index.by_name(tag).filter(|owner| owner.id != *id) {
            let loser = losers.entry(&owner.id).or_insert_with(|| Image::clone(owner));
            loser.repo_tags.remove(tag);
        }
    }
    losers.into_values().collect()
}

fn is_pinned(pinned: &BTreeSet<String>, image: &Image) -> bool {
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    names.any(|name| pinned.contains(name))
}

#[cfg(test)]
mod tests;
