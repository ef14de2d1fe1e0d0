//! What can go wrong with images; each variant knows what was being done to what.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_snapshot::Error as SnapshotError;
use coracle_store::StoreError;
use coracle_types::{Digest, Kind, Kinded};

use crate::decode::BlobError;
use crate::manifest::MalformedDocument;
use crate::policy::{MalformedPolicy, Refusal};
use crate::reference::MalformedReference;
use crate::registry::error::RegistryError;

/// An operation on images failed; nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is no image reference.
    #[error(transparent)]
    Reference(#[from] MalformedReference),
    /// A registry failed or refused.
    #[error("pull {image}: {source}")]
    Registry {
        /// The reference.
        image: String,
        /// What the registry did.
        source: RegistryError,
    },
    /// A registry does not take an image.
    #[error("push {image}: {source}")]
    Push {
        /// Where to.
        image: String,
        /// What the registry did.
        source: RegistryError,
    },
    /// A manifest, index or configuration is refused.
    #[error("image {image}: {source}")]
    Document {
        /// The reference or archive.
        image: String,
        /// Why.
        source: MalformedDocument,
    },
    /// The signature policy does not allow the image.
    #[error("image {image}: {source}")]
    Refused {
        /// The reference.
        image: String,
        /// Which requirement is not met.
        source: Refusal,
    },
    /// The signature policy that counts cannot be used, so nothing is allowed.
    #[error("image {image}: {source}")]
    Policy {
        /// The reference.
        image: String,
        /// What is wrong with it.
        source: MalformedPolicy,
    },
    /// A limit on images is exceeded.
    #[error("image {image} has {found} {what}, the limit is {limit}")]
    Limit {
        /// The reference or archive.
        image: String,
        /// `layers`, `compressed bytes`.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// A layer that need not be in a registry is not there.
    #[error(
        "image {image}, layer {layer}: it is a foreign layer, which the registry does not have, and its `urls` are \
         never followed: push the image with its foreign layers ({source})"
    )]
    Foreign {
        /// The reference.
        image: String,
        /// The layer's blob.
        layer: Digest,
        /// What the registry said.
        source: RegistryError,
    },
    /// A layer's blob is refused.
    #[error("image {image}, layer {layer}: {source}")]
    Blob {
        /// The reference or archive.
        image: String,
        /// The layer's blob.
        layer: Digest,
        /// Why.
        source: BlobError,
    },
    /// A layer cannot be unpacked or stacked.
    #[error("image {image}: {}", crate::registry::error::causes(source))]
    Snapshot {
        /// The reference, archive or id.
        image: String,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// The image's documents cannot be kept or read.
    #[error("{operation} {}: {source}", path.display())]
    Content {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The image's record cannot be kept or read.
    #[error("image records: {0}")]
    Store(#[from] StoreError),
    /// An archive that is to be loaded is refused.
    #[error("archive {}: {reason}", path.display())]
    Archive {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is for images only was asked of an artifact.
    #[error("{image} is an artifact of type {kind:?}: only images are saved and pushed")]
    Artifact {
        /// Its name.
        image: String,
        /// Its type.
        kind: String,
    },
    /// No image is called so.
    #[error("there is no image {image} on this node: `coracle images` lists them, `coracle pull` gets one")]
    Missing {
        /// The name.
        image: String,
    },
    /// The daemon is going down, or a fault of this program.
    #[error("{operation} ended without a result: try again")]
    Interrupted {
        /// What ended.
        operation: &'static str,
    },
    /// The error of a pull that several clients waited for.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Reference(_) | Self::Archive { .. } | Self::Artifact { .. } => Kind::InvalidArgument,
            Self::Registry { source, .. } | Self::Foreign { source, .. } | Self::Push { source, .. } => {
                source.kind()
            }
            Self::Missing { .. }
            | Self::Document {
                source: MalformedDocument::NoPlatform { .. },
                ..
            } => Kind::NotFound,
            Self::Document { .. } => Kind::InvalidArgument,
            Self::Refused { .. } | Self::Policy { .. } => Kind::SignatureValidationFailed,
            Self::Limit { .. } => Kind::ResourceExhausted,
            Self::Blob { source, .. } => source.kind(),
            Self::Snapshot { source, .. } => source.kind(),
            Self::Content { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
                io::ErrorKind::NotFound => Kind::NotFound,
                _ => Kind::Internal,
            },
            Self::Store(source) => source.kind(),
            Self::Interrupted { .. } => Kind::Unavailable,
            Self::Shared(source) => source.kind(),
        }
    }
}
