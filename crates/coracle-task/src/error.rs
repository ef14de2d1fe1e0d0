//! Why a shim could not be had, or what it answered.

use std::path::PathBuf;

use coracle_types::format::Newer;
use coracle_types::{Kind, Kinded, PodSandboxId};

/// A call to a keeper or a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keeper refused or is gone.
    #[error("the keeper of {runtime_dir}", runtime_dir = runtime_dir.display())]
    Keeper {
        /// The directory whose keeper it is.
        runtime_dir: PathBuf,
        /// What it said.
        source: coracle_keeper::Error,
    },
    /// The shim's socket takes no connection.
    #[error("connect to the shim at {}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The shim answered with an error, or went away under the call.
    #[error("{call}: {message}")]
    Call {
        /// Which call.
        call: &'static str,
        /// What sort of failure it is.
        kind: Kind,
        /// The shim's words.
        message: String,
    },
    /// A request has no wire form.
    #[error("encode the request {call}")]
    Encode {
        /// Which call.
        call: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The process of an exec could not be handed over.
    #[error("write {}", path.display())]
    ProcessFile {
        /// The file that should hold it.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The shim takes connections and does not answer.
    #[error(
        "the shim of pod {pod} does not answer: it may be stopped or hang in the kernel (see /proc/PID/stack)"
    )]
    Silent {
        /// Whose shim.
        pod: PodSandboxId,
    },
    /// The shim did not answer in time and was killed; another one can take over.
    #[error(
        "{call}: the shim of pod {pod} gave no answer within {seconds} s and was killed: another one takes over"
    )]
    Killed {
        /// Which call.
        call: &'static str,
        /// Whose shim.
        pod: PodSandboxId,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A newer program had the pod: another shim of this one would misread what it left.
    #[error("the state file {}: {newer}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What it says.
        newer: Newer,
    },
    /// The blocking part of a launch was cut off.
    #[error("launching the shim of pod {pod} was interrupted")]
    Interrupted {
        /// Whose shim.
        pod: PodSandboxId,
    },
}

impl Error {
    pub(crate) fn of(call: &'static str) -> impl Fn(ttrpc::Error) -> Self {
        move |error| {
            let (kind, message) = coracle_proto::shim_ext::from_status(&error);
            Self::Call { call, kind, message }
        }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Keeper { source, .. } => source.kind(),
            Self::Connect { .. } | Self::Killed { .. } => Kind::Unavailable,
            Self::Call { kind, .. } => *kind,
            Self::ProcessFile { source, .. } => Kind::of_exhaustion(source).unwrap_or(Kind::Internal),
            Self::Silent { .. } => Kind::DeadlineExceeded,
            Self::Newer { .. } => Kind::FailedPrecondition,
            Self::Encode { .. } | Self::Interrupted { .. } => Kind::Internal,
        }
    }
}
