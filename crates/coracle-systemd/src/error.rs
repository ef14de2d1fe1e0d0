//! What can go wrong between us and PID 1.

use std::path::PathBuf;

use coracle_types::{Kind, Kinded};

/// A request to systemd that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The socket does not answer.
    #[error("systemd cannot be reached at {}: {source}; it must be this node's init system, and dbus must run", .socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: Box<zbus::Error>,
    },
    /// The connection ended while an answer was waited for.
    #[error("the connection to systemd ended during {call}({unit})")]
    Lost {
        /// The method.
        call: &'static str,
        /// The unit it was about.
        unit: String,
    },
    /// systemd refused, in its own words.
    #[error("systemd refuses {call}({unit}): {message} ({name})")]
    Refused {
        /// The method.
        call: &'static str,
        /// The unit it was about.
        unit: String,
        /// D-Bus error name.
        name: String,
        /// systemd's words.
        message: String,
    },
    /// The job ended otherwise than `done`.
    #[error("systemd's job for {unit} ended with {result:?}; see `systemctl status {unit}`")]
    Job {
        /// The unit.
        unit: String,
        /// `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
        result: String,
    },
    /// No answer in time.
    #[error("systemd did not answer {call}({unit}) within {seconds} s; see `systemctl list-jobs`")]
    Silent {
        /// The method.
        call: &'static str,
        /// The unit it was about.
        unit: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl Error {
    /// Whether systemd answered with this D-Bus error, the part after the last dot.
    pub(crate) fn is(&self, last: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name.rsplit('.').next() == Some(last))
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => Kind::Unavailable,
            Self::Silent { .. } => Kind::DeadlineExceeded,
            Self::Refused { .. } if self.is("InvalidArgs") => Kind::InvalidArgument,
            Self::Refused { .. } if self.is("AccessDenied") => Kind::PermissionDenied,
            Self::Refused { .. } | Self::Job { .. } => Kind::Internal,
        }
    }
}
