//! Small documents by digest: manifests, indexes and configurations in `blobs/sha256`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_sys::steps::entering;
use coracle_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::manifest::MAX_DOCUMENT;

const UNFINISHED: &str = ".unfinished-";

/// The documents of all images. Every call blocks on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    dir: PathBuf,
    unfinished: Arc<AtomicU64>,
}

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let dir = root.join("blobs/sha256");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| failed("create", &dir, source))?;
        Ok(Self {
            dir,
            unfinished: Arc::new(AtomicU64::new(0)),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Keeps `bytes`, whose digest the caller has verified; durable when this returns.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(digest);
        if self.read(digest).is_ok() {
            return Ok(());
        }
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.dir.join(format!("{UNFINISHED}{number}"));
        let write = || -> io::Result<()> {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            entering("document.publish");
            fs::rename(&unfinished, &path)?;
            entering("document.sync");
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| failed("write", &path, source))
    }

    /// A file without a name, for what must not outlive its use.
    pub(crate) fn unnamed(&self) -> Result<File, Error> {
        tempfile::tempfile_in(&self.dir).map_err(|source| failed("create a file in", &self.dir, source))
    }

    /// A document, bounded and verified.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&path)?
                .take(MAX_DOCUMENT + 1)
                .read_to_end(&mut bytes)?;
            if Digest::from_sha256(&Sha256::digest(&bytes).into()) == *digest {
                Ok(bytes)
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
            }
        };
        read().map_err(|source| failed("read", &path, source))
    }

    /// Removes all documents but `keep`.
    pub(crate) fn retain(&self, keep: &HashMap<Digest, u64>) -> Result<(), Error> {
        let entries = fs::read_dir(&self.dir).map_err(|source| failed("list", &self.dir, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| failed("list", &self.dir, source))?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if digest.is_none_or(|digest| !keep.contains_key(&digest)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes a document; one that is gone is no error.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), Error> {
        remove(&self.path(digest))
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Content {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_verified_when_read_and_replaced_when_damaged() {
        let root = tempfile::tempdir().unwrap();
        let content = Content::open(root.path()).unwrap();
        let digest = Digest::from_sha256(&Sha256::digest(b"document").into());
        content.put(&digest, b"document").unwrap();
        assert_eq!(content.read(&digest).unwrap(), b"document");
        fs::write(content.path(&digest), b"damaged").unwrap();
        assert!(content.read(&digest).is_err());
        content.put(&digest, b"document").unwrap();
        assert_eq!(content.read(&digest).unwrap(), b"document");
        content.retain(&HashMap::new()).unwrap();
        assert_eq!(fs::read_dir(&content.dir).unwrap().count(), 0);
    }
}
