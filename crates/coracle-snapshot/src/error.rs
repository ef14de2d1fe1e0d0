//! What can go wrong with layers and writable layers.

use std::io;
use std::path::PathBuf;

use coracle_types::{ContainerId, Digest, Kind, Kinded};

use crate::extract::ExtractError;
use crate::id::LayerId;

/// A failed operation on layers or writable layers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer id that was read from text is not one.
    #[error("layer id {value:?} is malformed: expected diff:, chain: or fixup: and a sha256 digest")]
    MalformedLayerId {
        /// What was read.
        value: String,
    },
    /// New layers are to be images, which this node cannot mount.
    #[error("layers cannot be EROFS images here: {reason}; set image.snapshotter to \"auto\" or \"overlay\"")]
    NoImages {
        /// What is missing.
        reason: String,
    },
    /// Another process holds the state directory.
    #[error("{} is in use by another process: give each daemon a root directory of its own", root.display())]
    Locked {
        /// The state directory.
        root: PathBuf,
    },
    /// A directory or file of this crate's state could not be worked on.
    #[error("{action} {}", path.display())]
    State {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A layer's archive could not be unpacked; nothing of it is left.
    #[error("unpack layer {diff_id}")]
    Extract {
        /// The layer.
        diff_id: Digest,
        /// Why.
        #[source]
        source: ExtractError,
    },
    /// The stream is not what its digest promised; nothing of it is left.
    #[error("layer {expected} has the digest {actual}: the registry or a proxy served other content")]
    DigestMismatch {
        /// The diff ID that the image's configuration names.
        expected: Digest,
        /// What the stream hashed to.
        actual: Digest,
    },
    /// A layer that an image needs is not on this node.
    #[error("layer {0} is not present: pull the image again")]
    LayerMissing(LayerId),
    /// A layer may not be removed now.
    #[error("layer {layer} is in use by {user}")]
    LayerInUse {
        /// The layer.
        layer: LayerId,
        /// Who uses it.
        user: String,
    },
    /// An image has more layers than an overlay mount can stack.
    #[error("image has {count} layers: at most {limit} can be stacked")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// A hard link leads into the lower layers, but what it names is not there.
    #[error("layer {diff_id}: hard link {entry} names {target}, which is {reason}")]
    LinkTarget {
        /// The layer with the link.
        diff_id: Digest,
        /// The link.
        entry: String,
        /// What it names.
        target: String,
        /// What is wrong with it.
        reason: &'static str,
        /// The system call's error, if it was one.
        #[source]
        source: Option<io::Error>,
    },
    /// A layer needs to be laid out anew over the layers below it, and that is ambiguous.
    #[error(
        "layer {diff_id}: {entry} lies below a symbolic link of a lower layer and meets another entry there"
    )]
    AmbiguousLink {
        /// The layer.
        diff_id: Digest,
        /// The entry.
        entry: String,
    },
    /// The container has a writable layer already.
    #[error("container {0} already has a writable layer")]
    WritableExists(ContainerId),
    /// The container has no writable layer.
    #[error("container {0} has no writable layer")]
    WritableMissing(ContainerId),
    /// An overlay of layers could not be mounted.
    #[error("mount a view of {count} layers: {step}")]
    View {
        /// How many layers.
        count: usize,
        /// The system call and its argument.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::MalformedLayerId { .. } | Self::TooManyLayers { .. } => Kind::InvalidArgument,
            Self::LinkTarget { source: None, .. } | Self::AmbiguousLink { .. } => Kind::InvalidArgument,
            Self::Locked { .. } | Self::LayerInUse { .. } | Self::NoImages { .. } => Kind::FailedPrecondition,
            Self::LayerMissing(_) | Self::WritableMissing(_) => Kind::NotFound,
            Self::WritableExists(_) => Kind::AlreadyExists,
            Self::DigestMismatch { .. } => Kind::Unavailable,
            Self::Extract { source, .. } => source.kind(),
            Self::State { source, .. } | Self::View { source, .. } => io_kind(source),
            Self::LinkTarget {
                source: Some(source), ..
            } => io_kind(source),
        }
    }
}

/// A full disk or quota is the node's want of a resource; all else is a fault of the node.
pub(crate) fn io_kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
        _ => Kind::Internal,
    }
}

impl Error {
    pub(crate) fn state(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::State {
            action,
            path,
            source: errno.into(),
        }
    }
}
