//! What a shim answers when it cannot do what it was asked.

use std::io;
use std::path::PathBuf;

use coracle_proto::shim_ext::to_status;
use coracle_types::format::Newer;
use coracle_types::{ContainerId, ExecId, Kind, Kinded, MalformedId};

/// A refusal or a failure of the shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod has no such container.
    #[error("container {0} is not in this pod")]
    NoContainer(ContainerId),
    /// Its init, or the exec's process, has ended; containerd's clients expect "not found" for it.
    #[error("container {0}: the process has ended already")]
    Ended(ContainerId),
    /// The container has no such exec.
    #[error("container {container} has no exec {exec}")]
    NoExec {
        /// The container.
        container: ContainerId,
        /// The exec.
        exec: ExecId,
    },
    /// There is one already.
    #[error("{what} {id} exists already")]
    Exists {
        /// Container, exec, sandbox.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// Not in this state.
    #[error("{operation} container {id}: it is {state}")]
    State {
        /// What was asked.
        operation: &'static str,
        /// Of which container.
        id: ContainerId,
        /// Why not.
        state: &'static str,
    },
    /// The sandbox is not in the state that this needs.
    #[error("sandbox: {0}")]
    Sandbox(&'static str),
    /// A field of the request is wrong.
    #[error("{field} {value:?}: {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it holds, cut.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// An id is malformed.
    #[error(transparent)]
    Id(#[from] MalformedId),
    /// The container runtime failed.
    #[error("container {id}: {source}")]
    Runtime {
        /// Whose.
        id: ContainerId,
        /// How.
        #[source]
        source: coracle_container::Error,
    },
    /// The pod's namespaces or its init failed.
    #[error("sandbox: {operation}: {source}")]
    Namespaces {
        /// What was done.
        operation: &'static str,
        /// How it failed.
        #[source]
        source: coracle_container::Error,
    },
    /// A log cannot be written.
    #[error("{operation} the log {}: {source}{}", path.display(), remedy_of_log(source))]
    Log {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A file of the bundle or of the state directory.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The state file is not this program's to read.
    #[error("the state file {}: {newer}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What it says.
        newer: Newer,
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
    /// The exec's deadline passed and its processes were killed.
    #[error("exec in container {0}: the deadline passed; its processes were killed")]
    Deadline(ContainerId),
    /// Not offered.
    #[error("{0} is not offered by this shim")]
    Unimplemented(&'static str),
    /// The shim is leaving.
    #[error("the shim is shutting down")]
    Leaving,
    /// The keeper failed.
    #[error(transparent)]
    Keeper(#[from] coracle_keeper::Error),
}

impl Error {
    pub(crate) fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            operation,
            source: source.into(),
        }
    }

    pub(crate) fn file<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source: source.into(),
        }
    }

    pub(crate) fn field(field: &'static str, value: &str, problem: impl Into<String>) -> Self {
        Self::Field {
            field,
            value: value.chars().take(200).collect(),
            problem: problem.into(),
        }
    }

    pub(crate) fn runtime(id: &ContainerId) -> impl FnOnce(coracle_container::Error) -> Self {
        let id = id.clone();
        move |source| Self::Runtime { id, source }
    }
}

fn remedy_of_log(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": its directory is gone: make it, then have the log reopened",
        _ => "",
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoContainer(_) | Self::NoExec { .. } | Self::Ended(_) => Kind::NotFound,
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::State { .. } | Self::Sandbox(_) => Kind::FailedPrecondition,
            Self::Field { .. } | Self::Id(_) => Kind::InvalidArgument,
            Self::Runtime { source, .. } | Self::Namespaces { source, .. } => source.kind(),
            Self::Log { source, .. } | Self::File { source, .. } | Self::System { source, .. }
                if Kind::of_exhaustion(source).is_some() =>
            {
                Kind::ResourceExhausted
            }
            Self::Log { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::FailedPrecondition,
            Self::Log { source, .. } | Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::PermissionDenied,
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Kind::InvalidArgument,
                _ => Kind::Internal,
            },
            Self::Newer { .. } => Kind::FailedPrecondition,
            Self::System { .. } => Kind::Internal,
            Self::Deadline(_) => Kind::DeadlineExceeded,
            Self::Unimplemented(_) => Kind::Unimplemented,
            Self::Leaving => Kind::Unavailable,
            Self::Keeper(error) => error.kind(),
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        to_status(error.kind(), &error.to_string())
    }
}
