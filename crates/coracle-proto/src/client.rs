//! A client of a CRI socket, ours or another runtime's: what people's commands and tests speak through.

use std::path::{Path, PathBuf};

use coracle_types::{Kind, Kinded};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::admin::admin_client::AdminClient;
use crate::cri::image_service_client::ImageServiceClient;
use crate::cri::runtime_service_client::RuntimeServiceClient;

/// Bytes of the largest message that is taken; an ExecSync reply alone may be two times 16 MB.
pub const MAX_MESSAGE: usize = 80 << 20;

/// Prefixes that CRI gives a meaning when the code is Unknown.
pub const WELL_KNOWN: [(Kind, &str); 4] = [
    (Kind::RegistryUnavailable, "RegistryUnavailable"),
    (Kind::SignatureValidationFailed, "SignatureValidationFailed"),
    (Kind::RecursiveReadOnlyUnsupported, "RROUnsupported"),
    (Kind::ImageVolumeMountFailed, "ImageVolumeMountFailed"),
];

/// A connection to a runtime; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    channel: Channel,
}

/// A call to the runtime failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The socket's path cannot be written in an address.
    #[error("socket {}: a path must be UTF-8 and at most {MAX_SOCKET_PATH} bytes long", socket.display())]
    Path {
        /// The path as it was given.
        socket: PathBuf,
    },
    /// Nobody answered.
    #[error("cannot reach a runtime at {}: {reason}", socket.display())]
    Connect {
        /// Where it was looked for.
        socket: PathBuf,
        /// The system's words.
        reason: String,
        /// Whether it may be there a moment later (no file, nobody listening).
        kind: Kind,
    },
    /// The runtime answered with an error, or the connection broke.
    #[error("{call}: {}", words(status))]
    Call {
        /// The RPC's name.
        call: &'static str,
        /// What was answered.
        status: Box<Status>,
    },
}

/// `sun_path` holds 108 bytes with its terminating zero (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

impl Client {
    /// Connects to the runtime that listens on `socket`.
    ///
    /// # Errors
    /// When the path is too long, or nobody answers there.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let address = socket
            .to_str()
            .filter(|text| (1..=MAX_SOCKET_PATH).contains(&text.len()))
            .ok_or_else(|| ClientError::Path {
                socket: socket.to_owned(),
            })?;
        let failed = |error| connect_error(socket, &error);
        let channel = Endpoint::from_shared(format!("unix:{address}"))
            .map_err(failed)?
            .connect()
            .await
            .map_err(failed)?;
        Ok(Self {
            socket: socket.to_owned(),
            channel,
        })
    }

    /// Where the runtime listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Pods and containers.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Images.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// What CRI has no word for; other runtimes answer Unimplemented.
    #[must_use]
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}

impl ClientError {
    /// For `map_err` on the reply of `call`: `client.runtime().version(..).await.map_err(ClientError::of("Version"))`.
    pub fn of(call: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Call {
            call,
            status: Box::new(status),
        }
    }

    /// Whether the runtime does not know the call (or the whole service).
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        self.kind() == Kind::Unimplemented
    }
}

impl Kinded for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Path { .. } => Kind::InvalidArgument,
            Self::Connect { kind, .. } => *kind,
            Self::Call { status, .. } => kind_of(status),
        }
    }
}

/// What sort of failure a status tells of.
#[must_use]
pub fn kind_of(status: &Status) -> Kind {
    match status.code() {
        // What the runtime answered has no source: the connection broke under the call.
        Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => Kind::Unavailable,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => Kind::InvalidArgument,
        Code::FailedPrecondition | Code::Aborted => Kind::FailedPrecondition,
        Code::ResourceExhausted => Kind::ResourceExhausted,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        // tonic's client says so when the deadline it was given has passed.
        Code::Cancelled if status.message() == "Timeout expired" => Kind::DeadlineExceeded,
        Code::Cancelled => Kind::Cancelled,
        Code::Unavailable => Kind::Unavailable,
        Code::Unimplemented => Kind::Unimplemented,
        Code::PermissionDenied | Code::Unauthenticated => Kind::PermissionDenied,
        Code::Unknown => WELL_KNOWN
            .iter()
            .find(|(_, prefix)| {
                status
                    .message()
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(':'))
            })
            .map_or(Kind::Internal, |(kind, _)| *kind),
        Code::Ok | Code::Internal | Code::DataLoss => Kind::Internal,
    }
}

/// The message, or the code's own words when there is none.
fn words(status: &Status) -> &str {
    match status.message() {
        "" => status.code().description(),
        message => message,
    }
}

/// The transport hides the system's error in its sources.
fn connect_error(socket: &Path, error: &tonic::transport::Error) -> ClientError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(next) = cause {
        if let Some(io) = next.downcast_ref::<std::io::Error>() {
            let kind = match io.kind() {
                std::io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
                _ => Kind::Unavailable,
            };
            return ClientError::Connect {
                socket: socket.to_owned(),
                reason: io.to_string(),
                kind,
            };
        }
        cause = next.source();
    }
    ClientError::Connect {
        socket: socket.to_owned(),
        reason: error.to_string(),
        kind: Kind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_told_from_an_answer() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(kind_of(&Status::from_error(Box::new(broken))), Kind::Unavailable);
        for answer in [
            Status::unknown("transport error"),
            Status::internal("h2 protocol error"),
        ] {
            assert_eq!(kind_of(&answer), Kind::Internal);
        }
    }

    #[test]
    fn well_known_prefixes_count_only_with_code_unknown_and_a_colon() {
        for (kind, prefix) in WELL_KNOWN {
            assert_eq!(kind_of(&Status::unknown(format!("{prefix}: x"))), kind);
            assert_eq!(kind_of(&Status::unknown(format!("{prefix} x"))), Kind::Internal);
            assert_eq!(kind_of(&Status::internal(format!("{prefix}: x"))), Kind::Internal);
        }
    }

    #[test]
    fn a_status_without_words_still_says_something() {
        let error = ClientError::of("Version")(Status::new(Code::Unavailable, ""));
        assert!(error.to_string().starts_with("Version: ") && error.to_string().len() > "Version: ".len());
        assert_eq!(error.kind(), Kind::Unavailable);
    }
}
