//! What a registry may do wrong, in words that hold no secret.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use coracle_types::{Digest, Kind, Kinded};

use super::credentials::MalformedAuthFile;
use super::hosts::MalformedHosts;
use super::transport::TransportError;

/// A registry could not be asked, or its answer is refused.
///
/// Neither URLs with their query nor what a host said to an authenticated request are part of any
/// text: both may hold secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// The node's configuration of this registry is wrong.
    #[error(transparent)]
    Hosts(#[from] MalformedHosts),
    /// The node's file of credentials is wrong.
    #[error(transparent)]
    AuthFile(MalformedAuthFile),
    /// The node's configuration forbids it.
    #[error("{name} is blocked by the prefix {prefix:?} in {}", path.display())]
    Blocked {
        /// Registry and repository.
        name: String,
        /// What the name begins with.
        prefix: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// The client's certificates are wrong.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The credentials of the request cannot be used.
    #[error("the credentials (auth) are malformed: {reason}")]
    Credentials {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// No connection, a broken one, or silence.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What the network said.
        reason: String,
    },
    /// The host is overloaded or broken (429, 5xx).
    #[error("{host} answered {status}{code}: try again later")]
    Busy {
        /// Host and port.
        host: String,
        /// HTTP status.
        status: u16,
        /// The registry's code, after a space; empty when it gave none.
        code: String,
        /// What `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// No credentials, wrong ones, or too few rights.
    #[error(
        "{host} denied access to {subject} ({reason}): it may not exist, or the pull needs (other) credentials"
    )]
    Denied {
        /// Host and port.
        host: String,
        /// What was asked for.
        subject: String,
        /// Status, code, and what is known.
        reason: String,
    },
    /// The host does not have it.
    #[error("{host} has no {subject}{code}")]
    NotFound {
        /// Host and port.
        host: String,
        /// What was asked for.
        subject: String,
        /// The registry's code, after a space.
        code: String,
    },
    /// An answer that means nothing here.
    #[error("{host} answered {status}{code} when asked for {subject}")]
    Status {
        /// Host and port.
        host: String,
        /// HTTP status.
        status: u16,
        /// The registry's code, after a space.
        code: String,
        /// What was asked for.
        subject: String,
    },
    /// More bytes than allowed or announced.
    #[error("{host} sent more than {limit} bytes for {subject}")]
    TooLarge {
        /// Host and port.
        host: String,
        /// What was asked for.
        subject: String,
        /// Bytes.
        limit: u64,
    },
    /// Fewer bytes than announced.
    #[error("{host} ended {subject} after {received} of {size} bytes")]
    Cut {
        /// Host and port.
        host: String,
        /// What was asked for.
        subject: String,
        /// Bytes that came.
        received: u64,
        /// Bytes there should be.
        size: u64,
    },
    /// The bytes are not those that the digest names.
    #[error("{host} sent other content than asked for: expected {expected}, got {found}")]
    WrongDigest {
        /// Host and port.
        host: String,
        /// Asked for.
        expected: Digest,
        /// Of what came.
        found: Digest,
    },
    /// An answer that breaks the protocol.
    #[error("{host} broke the protocol: {reason}")]
    Protocol {
        /// Host and port.
        host: String,
        /// In what way.
        reason: String,
    },
    /// No configured host has the capability.
    #[error("no host is configured to {capability} images of {registry}: see its hosts.toml")]
    NoHost {
        /// The registry.
        registry: String,
        /// `resolve`, `pull` or `push`.
        capability: &'static str,
    },
    /// Every host failed; the last one's error decides the kind.
    #[error("{last} (before that: {})", earlier.join("; "))]
    All {
        /// Of the last host.
        #[source]
        last: Box<RegistryError>,
        /// Of the others, in order.
        earlier: Vec<String>,
    },
}

impl RegistryError {
    /// Whether the same host may answer better in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Cut { .. } => true,
            Self::All { last, .. } => last.is_transient(),
            _ => false,
        }
    }

    /// How long the host asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Kinded for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Hosts(_)
            | Self::AuthFile(_)
            | Self::Blocked { .. }
            | Self::Transport(_)
            | Self::NoHost { .. } => Kind::FailedPrecondition,
            Self::Credentials { .. } => Kind::InvalidArgument,
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Cut { .. }
            | Self::Status { .. }
            | Self::Protocol { .. }
            | Self::WrongDigest { .. } => Kind::RegistryUnavailable,
            Self::Denied { .. } => Kind::PermissionDenied,
            Self::NotFound { .. } => Kind::NotFound,
            Self::TooLarge { .. } => Kind::ResourceExhausted,
            Self::All { last, .. } => last.kind(),
        }
    }
}

/// An error and its causes on one line, without repeating what a cause says already.
pub(crate) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text.chars().take(400).collect()
}
