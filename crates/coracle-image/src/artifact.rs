//! OCI artifacts: which files their blobs become, and the archive of them that a layer is made of.

use std::collections::BTreeSet;
use std::io::{self, Read};

use bytes::Bytes;
use coracle_types::Digest;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use tokio::sync::mpsc;

use crate::decode::{BlobError, Chunks};
use crate::manifest::{Descriptor, MalformedDocument};

/// Most files of one artifact.
pub(crate) const MOST_FILES: usize = 1000;
/// Longest name of one, in bytes.
const LONGEST_PATH: usize = 1024;
/// Longest part of a name (NAME_MAX).
const LONGEST_PART: usize = 255;
/// Stands for "nothing here" where a manifest must have a layer (manifest.md, "Guidance for an Empty
/// Descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Where a file's name is written, the first that is there: by ORAS and all who follow it, and by the CNCF's
/// model specification.
const TITLES: [&str; 2] = ["org.opencontainers.image.title", "org.cncf.model.filepath"];
/// The block of an archive.
const BLOCK: u64 = 512;
/// More than this does not fit into the size field of a header (eleven octal digits).
const LARGEST_FIELD: u64 = 0o777_7777_7777;

/// An artifact whose manifest is verified and whose blobs are not here yet.
#[derive(Debug)]
pub(crate) struct ArtifactPlan {
    /// Its type, cut.
    pub(crate) kind: String,
    /// Its files, in the order of the manifest.
    pub(crate) files: Vec<ArtifactFile>,
}

/// A blob that becomes a file.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactFile {
    /// Relative, of plain names.
    pub(crate) path: String,
    pub(crate) blob: Descriptor,
}

/// The files that a manifest's layers become: each is called by its title, else by its digest.
///
/// # Errors
/// For titles that would lead elsewhere, and for two files in one place.
pub(crate) fn files(layers: &[Descriptor]) -> Result<Vec<ArtifactFile>, MalformedDocument> {
    let mut files: Vec<ArtifactFile> = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut directories: BTreeSet<String> = BTreeSet::new();
    for blob in layers {
        let title = TITLES.iter().find_map(|key| blob.annotations.get(*key));
        if title.is_none() && blob.media_type == EMPTY {
            continue;
        }
        let path = match title {
            Some(title) => checked(title)?,
            None => format!("sha256-{}", blob.digest.hex()),
        };
        let above = parents(&path);
        let in_the_way = above.iter().any(|parent| taken.contains(*parent));
        if in_the_way || directories.contains(&path) || !taken.insert(path.clone()) {
            return Err(refused(&path, "another file of the artifact has this place"));
        }
        directories.extend(above.into_iter().map(str::to_owned));
        files.push(ArtifactFile {
            path,
            blob: blob.clone(),
        });
    }
    Ok(files)
}

/// The directories that a path lies in, the uppermost first.
fn parents(path: &str) -> Vec<&str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).collect()
}

/// A title is a name or a relative path of plain names (as `oras push dir/file` writes them).
fn checked(title: &str) -> Result<String, MalformedDocument> {
    if title.len() > LONGEST_PATH {
        return Err(refused(title, "at most 1024 bytes are allowed"));
    }
    for part in title.split('/') {
        let word = match part {
            "" => "it must be a relative path without empty parts",
            "." | ".." => "it must not have `.` or `..`",
            part if part.len() > LONGEST_PART => "no part may have more than 255 bytes",
            part if part.starts_with(".wh.") => "names that begin with `.wh.` mark removed files in layers",
            part if part.chars().any(char::is_control) => "control characters are not allowed",
            _ => continue,
        };
        return Err(refused(title, word));
    }
    Ok(title.to_owned())
}

fn refused(title: &str, expected: &str) -> MalformedDocument {
    MalformedDocument::Field {
        field: "layers.annotations[org.opencontainers.image.title]",
        value: format!("{:?}", title.chars().take(80).collect::<String>()),
        expected: expected.to_owned(),
    }
}

/// Headers of a file and of the directories before it that `made` does not have yet.
pub(crate) fn headers(file: &ArtifactFile, made: &mut BTreeSet<String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for parent in parents(&file.path) {
        if made.insert(parent.to_owned()) {
            header(&mut bytes, EntryType::Directory, parent, 0);
        }
    }
    header(&mut bytes, EntryType::Regular, &file.path, file.blob.size);
    bytes
}

/// The two empty blocks at an archive's end.
pub(crate) fn trailer() -> Vec<u8> {
    vec![0; 2 * BLOCK as usize]
}

fn header(bytes: &mut Vec<u8>, kind: EntryType, path: &str, size: u64) {
    let short = path.len() <= 100 && size <= LARGEST_FIELD;
    if !short {
        let mut records = record("path", path);
        records.push_str(&record("size", &size.to_string()));
        block(bytes, EntryType::XHeader, "artifact", records.len() as u64);
        bytes.extend_from_slice(records.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    }
    // What the extended header says is not said again.
    let (name, size) = if short { (path, size) } else { ("artifact", 0) };
    block(bytes, kind, name, size);
}

fn block(bytes: &mut Vec<u8>, kind: EntryType, name: &str, size: u64) {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
}

/// `length key=value`, whose length counts itself (POSIX pax).
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

/// A piece of an artifact's archive, in order.
pub(crate) enum Part {
    /// Of the archive's own.
    Bytes(Vec<u8>),
    /// A blob on its way, whole or broken off.
    Blob {
        chunks: mpsc::Receiver<Bytes>,
        digest: Digest,
        size: u64,
    },
    /// Nothing more comes. Without it, the archive broke off.
    End,
}

/// An artifact's archive as it comes. A blob that is not the manifest's has no end here.
pub(crate) struct ArtifactReader {
    parts: mpsc::Receiver<Part>,
    current: Current,
    refusal: Option<BlobError>,
}

enum Current {
    Nothing,
    Bytes(io::Cursor<Vec<u8>>),
    Blob {
        chunks: Chunks,
        hasher: Sha256,
        length: u64,
        digest: Digest,
        size: u64,
    },
    End,
}

impl ArtifactReader {
    pub(crate) fn new(parts: mpsc::Receiver<Part>) -> Self {
        Self {
            parts,
            current: Current::Nothing,
            refusal: None,
        }
    }

    /// Why reading ended, when a blob was not what it should be.
    pub(crate) fn verdict(&self) -> Option<BlobError> {
        self.refusal.clone()
    }

    fn next(&mut self) -> io::Result<()> {
        self.current = match self.parts.blocking_recv() {
            Some(Part::Bytes(bytes)) => Current::Bytes(io::Cursor::new(bytes)),
            Some(Part::Blob { chunks, digest, size }) => Current::Blob {
                chunks: Chunks::new(chunks),
                hasher: Sha256::new(),
                length: 0,
                digest,
                size,
            },
            Some(Part::End) => Current::End,
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
        };
        Ok(())
    }
}

impl Read for ArtifactReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(refusal) = &self.refusal {
            return Err(io::Error::other(refusal.clone()));
        }
        loop {
            match &mut self.current {
                Current::End => return Ok(0),
                Current::Nothing => {}
                Current::Bytes(bytes) => {
                    let count = bytes.read(buffer)?;
                    if count > 0 {
                        return Ok(count);
                    }
                }
                Current::Blob {
                    chunks,
                    hasher,
                    length,
                    digest,
                    size,
                } => {
                    let count = chunks.read(buffer)?;
                    hasher.update(&buffer[..count]);
                    *length += count as u64;
                    if count > 0 && *length <= *size {
                        return Ok(count);
                    }
                    let found = Digest::from_sha256(&hasher.clone().finalize().into());
                    let refusal = if *length != *size {
                        Some(BlobError::Length {
                            expected: *size,
                            found: *length,
                        })
                    } else if found != *digest {
                        Some(BlobError::Digest {
                            expected: digest.clone(),
                            found,
                        })
                    } else {
                        None
                    };
                    if let Some(refusal) = refusal {
                        self.refusal = Some(refusal.clone());
                        return Err(io::Error::other(refusal));
                    }
                    let padding = size.next_multiple_of(BLOCK) - *size;
                    let padding = vec![0; usize::try_from(padding).expect("less than a block")];
                    self.current = Current::Bytes(io::Cursor::new(padding));
                    continue;
                }
            }
            self.next()?;
        }
    }
}

#[cfg(test)]
mod tests;
