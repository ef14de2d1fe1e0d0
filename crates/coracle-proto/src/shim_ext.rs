//! The shim's extension service `coracle.shim.v1` and how kinds of errors travel over ttrpc.

use coracle_types::Kind;
use ttrpc::Code;

pub use generated::shim_ext::{
    CancelExecRequest, CancelExecResponse, ChangeKeeperRequest, ChangeKeeperResponse, ContainerExit,
    ContainerStatusRequest, ContainerStatusResponse, ExecCaptureEnd, ExecCaptureEvent, ExecCaptureRequest,
    IdMapping, NamespacePin, RemoveRemainsRequest, RemoveRemainsResponse, ReopenLogRequest,
    ReopenLogResponse, SandboxOptions, SetLogRequest, SetLogResponse, StandInRequest, StandInResponse,
    WaitContainerRequest, WaitContainerResponse, container_status_response, exec_capture_event,
    namespace_pin,
};
pub use generated::shim_ext_ttrpc::{Shim, ShimClient, create_shim};

/// `type_url` of [`SandboxOptions`] in `CreateSandboxRequest.options`.
pub const SANDBOX_OPTIONS: &str = "coracle.shim.v1.SandboxOptions";
/// `type_url` of the OCI runtime specification's `linux.resources` as JSON, as containerd spells it.
pub const LINUX_RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// `type_url` of the OCI runtime specification's `process` as JSON, as containerd spells it.
pub const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// `type_url` of cgroup metrics (`containerd_shim_protos::cgroups_v2`), as containerd spells it.
pub const CGROUP2_METRICS: &str = "io.containerd.cgroups.v2.Metrics";
/// Scheme of a stdout URI that asks the shim to write a CRI log to the absolute path behind it.
pub const LOG_SCHEME: &str = "cri-log://";
/// The stdin URI that asks for a pipe whose writing end the shim keeps.
pub const STDIN_PIPE: &str = "coracle-pipe:";

/// Kinds that gRPC's codes have no word for travel as a prefix of the message.
const PREFIXED: [(Kind, &str); 4] = [
    (Kind::RegistryUnavailable, "RegistryUnavailable: "),
    (Kind::SignatureValidationFailed, "SignatureValidationFailed: "),
    (Kind::RecursiveReadOnlyUnsupported, "RROUnsupported: "),
    (Kind::ImageVolumeMountFailed, "ImageVolumeMountFailed: "),
];

/// The status of an error of `kind` that says `message`.
#[must_use]
pub fn to_status(kind: Kind, message: &str) -> ttrpc::Error {
    let code = match kind {
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::InvalidArgument => Code::INVALID_ARGUMENT,
        Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
        Kind::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
        Kind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        Kind::Cancelled => Code::CANCELLED,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Unimplemented => Code::UNIMPLEMENTED,
        Kind::PermissionDenied => Code::PERMISSION_DENIED,
        Kind::Internal => Code::INTERNAL,
        Kind::RegistryUnavailable
        | Kind::SignatureValidationFailed
        | Kind::RecursiveReadOnlyUnsupported
        | Kind::ImageVolumeMountFailed => Code::UNKNOWN,
    };
    let prefix = PREFIXED
        .iter()
        .find(|(prefixed, _)| *prefixed == kind)
        .map_or("", |(_, prefix)| prefix);
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, format!("{prefix}{message}")))
}

/// What [`to_status`] was given. A connection that broke is `Unavailable`.
#[must_use]
pub fn from_status(error: &ttrpc::Error) -> (Kind, String) {
    let ttrpc::Error::RpcStatus(status) = error else {
        return (Kind::Unavailable, error.to_string());
    };
    let message = status.message.as_str();
    let kind = match status.code.enum_value_or(Code::UNKNOWN) {
        Code::NOT_FOUND => Kind::NotFound,
        Code::ALREADY_EXISTS => Kind::AlreadyExists,
        Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => Kind::InvalidArgument,
        Code::FAILED_PRECONDITION | Code::ABORTED => Kind::FailedPrecondition,
        Code::RESOURCE_EXHAUSTED => Kind::ResourceExhausted,
        Code::DEADLINE_EXCEEDED => Kind::DeadlineExceeded,
        Code::CANCELLED => Kind::Cancelled,
        Code::UNAVAILABLE => Kind::Unavailable,
        Code::UNIMPLEMENTED => Kind::Unimplemented,
        Code::PERMISSION_DENIED | Code::UNAUTHENTICATED => Kind::PermissionDenied,
        Code::OK | Code::UNKNOWN | Code::INTERNAL | Code::DATA_LOSS => {
            for (kind, prefix) in PREFIXED {
                if let Some(rest) = message.strip_prefix(prefix) {
                    return (kind, rest.to_owned());
                }
            }
            Kind::Internal
        }
    };
    (kind, message.to_owned())
}

#[allow(
    missing_docs,
    unreachable_pub,
    unused_imports,
    unused_mut,
    dead_code,
    non_upper_case_globals,
    non_snake_case,
    non_camel_case_types,
    clippy::all,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "generated from proto/shim_ext.proto"
)]
mod generated {
    pub mod shim_ext {
        include!(concat!(env!("OUT_DIR"), "/shim/shim_ext.rs"));
    }
    pub mod shim_ext_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/shim/shim_ext_ttrpc.rs"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            assert_eq!(
                from_status(&to_status(kind, "because")),
                (kind, "because".to_owned())
            );
        }
    }

    #[test]
    fn a_broken_connection_is_unavailable() {
        assert_eq!(from_status(&ttrpc::Error::RemoteClosed).0, Kind::Unavailable);
    }
}
