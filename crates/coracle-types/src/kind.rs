//! What sort of failure an error is; only front ends map it to gRPC, HTTP or an exit code.

use std::io;

use serde::{Deserialize, Serialize};

/// The sort of a failure, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The subject does not exist.
    NotFound,
    /// The subject exists and may not be made again.
    AlreadyExists,
    /// A field of the request is wrong whatever the state.
    InvalidArgument,
    /// The request is right but not in this state.
    FailedPrecondition,
    /// A limit or a resource of the node is used up.
    ResourceExhausted,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// A peer cannot be reached; trying again may help.
    Unavailable,
    /// The operation is not offered here.
    Unimplemented,
    /// A peer or the kernel refused for want of rights.
    PermissionDenied,
    /// CRI's `RegistryUnavailable:`, matched by clients as a message prefix with code Unknown.
    RegistryUnavailable,
    /// CRI's `SignatureValidationFailed:`, likewise.
    SignatureValidationFailed,
    /// CRI's `RROUnsupported:`, likewise.
    RecursiveReadOnlyUnsupported,
    /// CRI's `ImageVolumeMountFailed:`, likewise.
    ImageVolumeMountFailed,
    /// A fault of the node or of this program.
    Internal,
}

impl Kind {
    /// Every kind: what maps them is tested with all of them.
    pub const ALL: [Self; 15] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::InvalidArgument,
        Self::FailedPrecondition,
        Self::ResourceExhausted,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Unavailable,
        Self::Unimplemented,
        Self::PermissionDenied,
        Self::RegistryUnavailable,
        Self::SignatureValidationFailed,
        Self::RecursiveReadOnlyUnsupported,
        Self::ImageVolumeMountFailed,
        Self::Internal,
    ];

    /// `ResourceExhausted` when the kernel says that something of the node is used up: space, quota, open files
    /// (of the process or of the node) or memory.
    #[must_use]
    pub fn of_exhaustion(error: &io::Error) -> Option<Self> {
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        let used_up = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
        ) || matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE));
        used_up.then_some(Self::ResourceExhausted)
    }
}

/// Errors that know their kind; every public error of the workspace does.
pub trait Kinded: std::error::Error {
    /// What sort of failure this is.
    fn kind(&self) -> Kind;
}
