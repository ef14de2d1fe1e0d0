//! Why a request cannot become a specification: the field, its value and the remedy.

use std::path::PathBuf;

use coracle_types::{Kind, Kinded};

/// A request that was refused, or a file of the node or image that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A field's value is wrong whatever the state of the node.
    #[error("{field} is {value:?}: {remedy}")]
    Field {
        /// Which field, as CRI spells its path.
        field: String,
        /// What it holds, cut after 80 characters.
        value: String,
        /// What is expected instead.
        remedy: String,
    },
    /// The request needs something that this pod or node does not have.
    #[error("{field} is {value:?}: {missing}")]
    Unsupported {
        /// Which field.
        field: String,
        /// What it holds, cut after 80 characters.
        value: String,
        /// What is missing, and what to do.
        missing: String,
    },
    /// A mount asks to be read-only below, too, and the kernel has no `mount_setattr` (5.12).
    #[error("mount of {host_path:?}: this kernel cannot make a mount read-only recursively; Linux 5.12 can")]
    RecursiveReadOnly {
        /// The volume on the host.
        host_path: String,
    },
    /// An image cannot be mounted as a volume.
    #[error("image {image:?} as a volume: {reason}")]
    ImageVolume {
        /// As the request names it.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// Neither the request nor the image says what to run.
    #[error("the container has no command: give command or args, or use an image with Entrypoint or Cmd")]
    NoCommand,
    /// A user or group that is named is not in the image.
    #[error(
        "{field}: {what} {name:?} is not in the image's /{file}: use a numeric id or an image that has it"
    )]
    NotInImage {
        /// Where the name stands.
        field: &'static str,
        /// `user` or `group`.
        what: &'static str,
        /// The name that was looked for.
        name: String,
        /// The file that was searched.
        file: &'static str,
    },
    /// A file of the image is not what it should be, or cannot be read.
    #[error("reading {file} of the image: {reason}")]
    ImageFile {
        /// The file below the image's root.
        file: &'static str,
        /// What is wrong.
        reason: String,
        /// The system's error, if one was the cause.
        #[source]
        source: Option<std::io::Error>,
    },
    /// A path of the node that the request names cannot be used.
    #[error("{operation} {path:?}")]
    HostPath {
        /// What was tried, e.g. `resolving device`.
        operation: &'static str,
        /// The path on the node.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A seccomp profile of the node is not one.
    #[error("parsing seccomp profile {path:?}")]
    SeccompProfile {
        /// The profile's file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A seccomp profile of the node contradicts itself or cannot be honoured.
    #[error("seccomp profile {path:?}: {reason}")]
    SeccompRule {
        /// The profile's file.
        path: PathBuf,
        /// What to change.
        reason: String,
    },
}

impl SpecError {
    pub(crate) fn field(field: impl Into<String>, value: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            value: cut(value.as_ref()),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn unsupported(
        field: impl Into<String>,
        value: impl AsRef<str>,
        missing: impl Into<String>,
    ) -> Self {
        Self::Unsupported {
            field: field.into(),
            value: cut(value.as_ref()),
            missing: missing.into(),
        }
    }
}

/// A foreign value goes into messages and logs only so far.
fn cut(value: &str) -> String {
    value.chars().take(80).collect()
}

impl Kinded for SpecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { .. } | Self::NoCommand | Self::NotInImage { .. } | Self::ImageFile { .. } => {
                Kind::InvalidArgument
            }
            Self::Unsupported { .. } => Kind::FailedPrecondition,
            Self::RecursiveReadOnly { .. } => Kind::RecursiveReadOnlyUnsupported,
            Self::HostPath { source, .. } if Kind::of_exhaustion(source).is_some() => Kind::ResourceExhausted,
            Self::ImageVolume { .. } => Kind::ImageVolumeMountFailed,
            Self::HostPath { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
                _ => Kind::FailedPrecondition,
            },
            Self::SeccompProfile { .. } | Self::SeccompRule { .. } => Kind::InvalidArgument,
        }
    }
}
