//! What is kept beside a layer's tree or image: `layer.json`, written before the layer is published, never after.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::extract::Contents;
use crate::id::LayerId;
use crate::walk::Fingerprint;

pub(crate) const RECORD: &str = "layer.json";
/// Readers refuse records of other versions: such a layer is removed and pulled again.
const TREE_VERSION: u32 = 1;
/// Older programs must not take the empty directory that an image is mounted on for a layer's tree.
const IMAGE_VERSION: u32 = 2;
/// More than the limits on an archive's names allow.
const MOST_BYTES: u64 = 1 << 30;

/// By what an image is known to be whole without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    /// Its length.
    pub(crate) bytes: u64,
    /// Of its first block.
    pub(crate) checksum: u32,
    /// When it was written last, in seconds and nanoseconds; whoever changes it changes this. None in records
    /// of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) modified: Option<(i64, i64)>,
}

/// What was made of a layer's archive.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) contents: Contents,
    /// None if it is a tree of directories.
    pub(crate) image: Option<ImageFile>,
}

impl From<Contents> for Made {
    fn from(contents: Contents) -> Self {
        Self {
            contents,
            image: None,
        }
    }
}

/// A published layer's metadata.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    version: u32,
    pub(crate) id: LayerId,
    pub(crate) contents: Contents,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageFile>,
    /// By what a tree is known to be whole without reading its files. None in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<Fingerprint>,
}

impl LayerRecord {
    pub(crate) fn new(id: LayerId, made: Made) -> Self {
        Self {
            version: match made.image {
                None => TREE_VERSION,
                Some(_) => IMAGE_VERSION,
            },
            id,
            contents: made.contents,
            image: made.image,
            tree: None,
        }
    }

    pub(crate) fn write(&self, directory: impl AsFd) -> std::io::Result<()> {
        write(directory, RECORD, self)
    }

    pub(crate) fn read(directory: impl AsFd) -> std::io::Result<Self> {
        let record: Self = read(directory, RECORD)?;
        match (record.version, record.image) {
            (TREE_VERSION, None) | (IMAGE_VERSION, Some(_)) => Ok(record),
            (version, _) => Err(std::io::Error::other(format!("version {version} is unknown"))),
        }
    }
}

/// Writes a new JSON file.
pub(crate) fn write(directory: impl AsFd, name: &str, value: &impl Serialize) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::io::BufWriter::new(std::fs::File::from(file));
    serde_json::to_writer(&mut file, value)?;
    file.flush()
}

/// Writes a JSON file in place of the one that may be there.
pub(crate) fn replace(directory: impl AsFd, name: &str, value: &impl Serialize) -> std::io::Result<()> {
    let fresh = format!("{name}.new");
    match unlinkat(&directory, fresh.as_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    write(&directory, &fresh, value)?;
    Ok(renameat(&directory, fresh.as_str(), &directory, name)?)
}

/// Reads a JSON file of ours.
pub(crate) fn read<T: serde::de::DeserializeOwned>(directory: impl AsFd, name: &str) -> std::io::Result<T> {
    let file: OwnedFd = openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(MOST_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
