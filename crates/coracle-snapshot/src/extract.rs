//! Unpacks an archive into a directory: every path by descriptors, nothing outside, nothing half.

mod attributes;
mod directories;
mod links;
mod names;
mod nodes;

pub(crate) use attributes::{Attributes, is_opaque, set_mtime};
#[cfg(test)]
pub(crate) use directories::Confinement;
pub(crate) use directories::{Directories, inside, mark_opaque};
pub(crate) use names::LayerPath;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use coracle_types::{Digest, Kind as ErrorKind, Kinded};
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, Entry, Kind, with_feed};
use crate::limits::Limits;
use crate::snapshotter::Usage;
use names::Target;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The stream could not be read.
    #[error("read the layer's stream")]
    Read(#[source] io::Error),
    /// The stream ends inside an entry.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// An entry that is malformed, ambiguous or leads out of the layer.
    #[error("entry {entry:?} is refused: {reason}")]
    Refused {
        /// The entry's path, escaped and cut.
        entry: String,
        /// What is wrong.
        reason: Cow<'static, str>,
    },
    /// More of something than a layer may have.
    #[error("entry {entry:?} is refused: a layer may have at most {limit} {what}")]
    Limit {
        /// The entry at which it was noticed; empty for the archive.
        entry: String,
        /// Of what there is too much.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The file system refused.
    #[error("entry {entry:?}: {action}")]
    Io {
        /// The entry's path, escaped and cut.
        entry: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Kinded for ExtractError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(_) => ErrorKind::Unavailable,
            Self::Truncated | Self::Refused { .. } => ErrorKind::InvalidArgument,
            Self::Limit { .. } => ErrorKind::ResourceExhausted,
            Self::Io { source, .. } => crate::error::io_kind(source),
        }
    }
}

impl ExtractError {
    pub(crate) fn refused(entry: &[u8], reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused {
            entry: names::shown(entry),
            reason: reason.into(),
        }
    }

    pub(crate) fn limit(entry: &[u8], what: &'static str, limit: u64) -> Self {
        Self::Limit {
            entry: names::shown(entry),
            what,
            limit,
        }
    }

    pub(crate) fn io(entry: &[u8], action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io {
            entry: names::shown(entry),
            action,
            source: errno.into(),
        }
    }
}

/// A layer as far as it is unpacked.
pub(crate) struct Extraction {
    pub(crate) directories: Directories,
    /// Names of empty files that stand for hard links into lower layers, with what each names. Names of
    /// one target share an inode.
    pub(crate) lower_links: BTreeMap<LayerPath, LayerPath>,
    pub(crate) opaque_root: bool,
}

/// What an unpacked layer's metadata records.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) usage: Usage,
    /// Directories that no entry describes.
    pub(crate) implied: Vec<LayerPath>,
    /// Implied directories that an opaque mark emptied: they stay the lower layers' directories.
    pub(crate) emptied: Vec<LayerPath>,
    /// Directories with whiteouts in them.
    pub(crate) whiteouts: Vec<LayerPath>,
    /// Nothing of the layers below shows through.
    pub(crate) opaque_root: bool,
}

/// Unpacks a stream below `root`, an empty directory. Gives the digest of all of the stream.
pub(crate) fn extract(
    root: OwnedFd,
    stream: impl io::Read + Send,
    limits: &Limits,
) -> Result<(Extraction, Digest), ExtractError> {
    let mut extraction = Extraction::new(Directories::new(root, limits));
    let (extraction, digest) = with_feed(stream, limits.stream_bytes, |feed| {
        extraction.apply(Archive::new(feed, limits))?;
        Ok(extraction)
    })?;
    Ok((extraction, digest))
}

impl Extraction {
    pub(crate) fn new(directories: Directories) -> Self {
        Self {
            directories,
            lower_links: BTreeMap::new(),
            opaque_root: false,
        }
    }

    fn apply(&mut self, mut archive: Archive<'_>) -> Result<(), ExtractError> {
        while let Some(entry) = archive.next_entry()? {
            self.entry(&entry, &mut archive)?;
        }
        archive.drain()
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), ExtractError> {
        match names::target(&entry.path)? {
            Target::Root => self.root(entry),
            Target::Ignored => Ok(()),
            Target::Opaque { parent } => self.opaque(entry, &parent),
            Target::Whiteout { parent, name } => self.whiteout(entry, &parent, &name),
            Target::Name { parent, name } => {
                let parent = self.directories.ensure(&entry.path, &parent, entry.mtime)?;
                match &entry.kind {
                    Kind::Directory => self.directory(entry, &parent, &name),
                    Kind::HardLink(target) => self.hard_link(entry, &parent, &name, target),
                    Kind::File | Kind::Sparse { .. } => self.file(entry, &parent, &name, archive),
                    Kind::Symlink(target) => self.symlink(entry, &parent, &name, target),
                    Kind::Character { .. } | Kind::Block { .. } | Kind::Fifo => {
                        self.special(entry, &parent, &name)
                    }
                }
            }
        }
    }

    /// Sets what can only be set when all entries are there, and tells what was unpacked.
    pub(crate) fn finish(self) -> Result<Contents, ExtractError> {
        let contents = self.directories.finish()?;
        Ok(Contents {
            opaque_root: self.opaque_root,
            ..contents
        })
    }
}

#[cfg(test)]
mod tests;
