//! How a failure is said over gRPC: the one place that maps kinds to codes.

use coracle_engine::chain;
use coracle_proto::client::WELL_KNOWN;
use coracle_types::{Kind, Kinded};
use tonic::{Code, Status};

use crate::translate::FieldError;

/// Longest message sent: a status travels in HTTP/2 trailers, and Go's client takes 16 KiB of headers.
const MAX_MESSAGE: usize = 8 << 10;

/// The status that says `error`, with its causes.
pub(crate) fn status<E: Kinded>(error: &E) -> Status {
    of_kind(error.kind(), chain(error))
}

/// The status of a request that could not be understood.
pub(crate) fn field(call: &'static str, error: &FieldError) -> Status {
    of_kind(Kind::InvalidArgument, format!("{call}: {error}"))
}

/// The answer of a call that this version does not have.
pub(crate) fn unimplemented(call: &'static str) -> Status {
    Status::unimplemented(format!("{call} is not implemented by this version"))
}

/// CRI's well-known errors are code Unknown and a prefix; all others have a code of their own.
pub(crate) fn of_kind(kind: Kind, message: String) -> Status {
    if let Some((_, prefix)) = WELL_KNOWN.iter().find(|(known, _)| *known == kind) {
        return Status::unknown(cut(format!("{prefix}: {message}")));
    }
    Status::new(code(kind), cut(message))
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Unavailable => Code::Unavailable,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Internal => Code::Internal,
        Kind::RegistryUnavailable
        | Kind::SignatureValidationFailed
        | Kind::RecursiveReadOnlyUnsupported
        | Kind::ImageVolumeMountFailed => Code::Unknown,
    }
}

/// The message, short enough for the headers that it travels in.
pub(crate) fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use coracle_proto::client::kind_of;

    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            assert_eq!(kind_of(&of_kind(kind, "because".into())), kind);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = of_kind(Kind::Internal, "é".repeat(MAX_MESSAGE));
        assert!(status.message().len() <= MAX_MESSAGE + 4 && status.message().ends_with("é ..."));
    }
}
