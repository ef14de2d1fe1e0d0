//! What can go wrong between a client, the keeper and the kernel.

use std::io;
use std::path::PathBuf;

use coracle_sys::fork::ForkError;
use coracle_types::{Kind, Kinded};

/// A failure of the keeper or of a call to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path of ours failed.
    #[error("{operation} {}: {source}", path.display())]
    Path {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was done.
        operation: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// No process could be made.
    #[error("{operation}: {source}")]
    Fork {
        /// Of what.
        operation: &'static str,
        /// Why not.
        #[source]
        source: ForkError,
    },
    /// No keeper answers on its socket.
    #[error("no keeper answers on {}: {source}", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The other end said what this version does not understand.
    #[error("the keeper's protocol was broken: {0}")]
    Protocol(String),
    /// The keeper refused.
    #[error("keeper: {message}")]
    Refused {
        /// What sort of refusal.
        kind: Kind,
        /// In words.
        message: String,
    },
    /// The keeper was started and left again.
    #[error("the keeper ended at once with {status}; its log is {}", log.display())]
    StartFailed {
        /// How it ended.
        status: String,
        /// Where it says why.
        log: PathBuf,
    },
    /// An argument of the keeper's role is missing or wrong.
    #[error("keeper role: argument {argument}: {problem}")]
    Argument {
        /// Which.
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    pub(crate) fn path(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path {
            operation,
            path,
            source,
        }
    }

    pub(crate) fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            operation,
            source: source.into(),
        }
    }
}

impl Error {
    pub(crate) fn fork(operation: &'static str) -> impl FnOnce(ForkError) -> Self {
        move |source| Self::Fork { operation, source }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Path { .. }
            | Self::System { .. }
            | Self::Fork { .. }
            | Self::Protocol(_)
            | Self::StartFailed { .. } => Kind::Internal,
            Self::Unreachable { .. } => Kind::Unavailable,
            Self::Refused { kind, .. } => *kind,
            Self::Argument { .. } => Kind::InvalidArgument,
        }
    }
}
