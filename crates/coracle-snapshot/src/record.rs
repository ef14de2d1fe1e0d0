//! What is kept beside a layer's tree: `layer.json`, written before the layer is published, never after.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::extract::Contents;
use crate::id::LayerId;

pub(crate) const RECORD: &str = "layer.json";
/// Readers refuse records of other versions: such a layer is removed and pulled again.
const VERSION: u32 = 1;
/// More than the limits on an archive's names allow.
const MOST_BYTES: u64 = 1 << 30;

/// A published layer's metadata.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    version: u32,
    pub(crate) id: LayerId,
    pub(crate) contents: Contents,
}

impl LayerRecord {
    pub(crate) fn new(id: LayerId, contents: Contents) -> Self {
        Self {
            version: VERSION,
            id,
            contents,
        }
    }

    pub(crate) fn write(&self, directory: impl AsFd) -> std::io::Result<()> {
        write(directory, RECORD, self)
    }

    pub(crate) fn read(directory: impl AsFd) -> std::io::Result<Self> {
        let record: Self = read(directory, RECORD)?;
        if record.version == VERSION {
            Ok(record)
        } else {
            Err(std::io::Error::other(format!(
                "version {} is unknown",
                record.version
            )))
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
