//! A directory of archives, for nodes that reach no registry: each is loaded once while its images are here.
//!
//! `<root>/archives.json` has what was loaded, by the digest of the archive's content: a file that was
//! not touched since is not even read again.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use coracle_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Images;
use crate::archive::Archive;
use crate::assemble::blocking;
use crate::error::Error;

/// Most archives of a directory that are looked at.
const MAX_ARCHIVES: usize = 1000;
/// Longest record that is read.
const MAX_RECORD: u64 = 16 << 20;

/// What a directory of archives came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchivesLoaded {
    /// Archives whose images came.
    pub loaded: usize,
    /// Archives whose images were here.
    pub present: usize,
    /// Archives that could not be loaded; the log says why.
    pub failed: usize,
}

/// An archive that was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    /// Inode, bytes, and when it was last written to in nanoseconds.
    seen: (u64, u64, i64),
    images: Vec<Digest>,
}

type Records = BTreeMap<String, Record>;

impl Images {
    /// Loads the archives that lie in `dir`, by name, one after the other. One that cannot be loaded is
    /// told in the log and is in the way of no other. `record` is where this is remembered.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub async fn load_directory(&self, dir: &Path, record: &Path) -> Result<ArchivesLoaded, Error> {
        let (from, kept) = (dir.to_owned(), record.to_owned());
        let listed = blocking("listing archives", move || (list(&from), read(&kept))).await?;
        let (paths, mut records) = (listed.0?, listed.1);
        // Of archives whose images went nothing needs to be remembered.
        records.retain(|_, record| self.has_all(record));
        let mut outcome = ArchivesLoaded::default();
        for path in paths {
            let began = Instant::now();
            match self.load_archive(&path, &mut records).await {
                Ok(None) => outcome.present += 1,
                Ok(Some(images)) => {
                    outcome.loaded += 1;
                    let took = began.elapsed();
                    tracing::info!(path = %path.display(), images = images.join(" "), ?took, "an archive was loaded");
                }
                Err(error) => {
                    outcome.failed += 1;
                    tracing::warn!(%error, "an archive is not loaded");
                }
            }
            let (kept, current) = (record.to_owned(), records.clone());
            let written = blocking("remembering archives", move || write(&kept, &current)).await?;
            if let Err(error) = written {
                tracing::warn!(%error, path = %record.display(), "archives will be read again at the next start");
            }
        }
        Ok(outcome)
    }

    fn has_all(&self, record: &Record) -> bool {
        record.images.iter().all(|id| self.get(id.as_str()).is_some())
    }

    /// Names of the images that came; `None` when all of them are here.
    async fn load_archive(&self, path: &Path, records: &mut Records) -> Result<Option<Vec<String>>, Error> {
        let archive = path.to_owned();
        let seen = blocking("looking at an archive", move || look(&archive)).await??;
        if records
            .values()
            .any(|record| record.path == path && record.seen == seen && self.has_all(record))
        {
            return Ok(None);
        }
        tracing::info!(path = %path.display(), bytes = seen.1, "an archive is read");
        let archive = path.to_owned();
        let content = blocking("reading an archive", move || content(&archive)).await??;
        let mut record = Record {
            path: path.to_owned(),
            seen,
            images: Vec::new(),
        };
        if let Some(known) = records.get(content.as_str()).filter(|known| self.has_all(known)) {
            record.images.clone_from(&known.images);
            records.insert(content.to_string(), record);
            return Ok(None);
        }
        let images = self.load(path, None).await?;
        record.images = images.iter().map(|image| image.id.clone()).collect();
        records.insert(content.to_string(), record);
        let name = |image: &std::sync::Arc<crate::Image>| {
            let tag = image.repo_tags.first().cloned();
            tag.unwrap_or_else(|| image.id.to_string())
        };
        Ok(Some(images.iter().map(name).collect()))
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |error| Error::Archive {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// What may be an archive, by name; names that begin with a dot are being written.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let entry = entry.map_err(failed(dir))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(failed(dir))?;
        if kind.is_file() || kind.is_dir() {
            paths.push(entry.path());
        }
        if paths.len() > MAX_ARCHIVES {
            return Err(Error::Archive {
                path: dir.to_owned(),
                reason: format!("it has more than {MAX_ARCHIVES} archives: put several images into one"),
            });
        }
    }
    paths.sort();
    Ok(paths)
}

fn look(path: &Path) -> Result<(u64, u64, i64), Error> {
    let metadata = fs::symlink_metadata(path).map_err(failed(path))?;
    if metadata.is_dir() {
        // What a layout holds is told by its index.
        let index = path.join("index.json");
        let index =
            fs::symlink_metadata(&index).or_else(|_| fs::symlink_metadata(path.join("manifest.json")));
        return Ok(identity(&index.unwrap_or(metadata)));
    }
    Ok(identity(&metadata))
}

fn identity(metadata: &Metadata) -> (u64, u64, i64) {
    let written = metadata
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(metadata.mtime_nsec());
    (metadata.ino(), metadata.len(), written)
}

/// The digest of a file; of a layout's index, which has the digests of all else.
fn content(path: &Path) -> Result<Digest, Error> {
    if path.is_dir() {
        let archive = Archive::open(path)?;
        let index = archive
            .read("index.json")
            .or_else(|_| archive.read("manifest.json"))?;
        return Ok(Digest::from_sha256(&Sha256::digest(&index).into()));
    }
    let mut hasher = Sha256::new();
    let mut file = Archive::open_file_at(path)?;
    io::copy(&mut file, &mut hasher).map_err(failed(path))?;
    Ok(Digest::from_sha256(&hasher.finalize().into()))
}

/// Worth no failure: without it archives are loaded again.
fn read(path: &Path) -> Records {
    let read = || -> io::Result<Records> {
        let mut text = Vec::new();
        File::open(path)?.take(MAX_RECORD).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    read().unwrap_or_default()
}

fn write(path: &Path, records: &Records) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(records)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
