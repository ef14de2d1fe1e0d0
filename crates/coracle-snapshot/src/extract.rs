//! Unpacks an archive into a directory: every path by descriptors, nothing outside, nothing half.

mod ahead;
mod attributes;
mod directories;
mod links;
mod names;
mod nodes;

pub(crate) use ahead::{Ahead, Start, TooManyLinks, Way};
pub(crate) use attributes::{Attributes, OPAQUE, is_opaque, set_mtime};
#[cfg(test)]
pub(crate) use directories::Confinement;
pub(crate) use directories::{Directories, Directory, inside, mark_opaque};
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

/// What an archive is unpacked into: what each kind of entry does there. Parents are resolved with the
/// layer's root as `/` and made where they are missing.
pub(crate) trait Unpack {
    /// An entry for the layer's root, a directory.
    fn root(&mut self, entry: &Entry) -> Result<(), ExtractError>;

    /// `.wh..wh..opq`: nothing of the directory in the layers below is left.
    fn opaque(&mut self, entry: &Entry, parent: &LayerPath) -> Result<(), ExtractError>;

    /// `.wh.<name>`: the name is gone from the layers below.
    fn whiteout(&mut self, entry: &Entry, parent: &LayerPath, name: &[u8]) -> Result<(), ExtractError>;

    /// Anything else; a file's data follows in the archive.
    fn name(
        &mut self,
        entry: &Entry,
        parent: &LayerPath,
        name: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<(), ExtractError>;
}

/// Unpacks a stream into something empty. Gives that and the digest of all of the stream.
pub(crate) fn extract<U: Unpack>(
    mut into: U,
    stream: impl io::Read + Send,
    limits: &Limits,
) -> Result<(U, Digest), ExtractError> {
    with_feed(stream, limits.stream_bytes, |feed| {
        let mut archive = Archive::new(feed, limits);
        while let Some(entry) = archive.next_entry()? {
            apply(&mut into, &entry, &mut archive)?;
        }
        archive.drain()?;
        Ok(into)
    })
}

fn apply(into: &mut impl Unpack, entry: &Entry, archive: &mut Archive<'_>) -> Result<(), ExtractError> {
    match names::target(&entry.path)? {
        Target::Root if entry.kind != Kind::Directory => Err(ExtractError::refused(
            &entry.path,
            "the root of a layer is a directory",
        )),
        Target::Root => into.root(entry),
        Target::Ignored => Ok(()),
        Target::Opaque { parent } => into.opaque(entry, &parent),
        Target::Whiteout { .. } if entry.kind == Kind::Directory => {
            Err(ExtractError::refused(&entry.path, "a whiteout is no directory"))
        }
        Target::Whiteout { parent, name } => into.whiteout(entry, &parent, &name),
        Target::Name { parent, name } => into.name(entry, &parent, &name, archive),
    }
}

impl Extraction {
    /// Into `root`, an empty directory.
    pub(crate) fn new(root: OwnedFd, limits: &Limits) -> Self {
        Self {
            directories: Directories::new(root, limits),
            lower_links: BTreeMap::new(),
            opaque_root: false,
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
