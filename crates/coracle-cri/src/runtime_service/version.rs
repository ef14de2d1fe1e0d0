//! Version: who answers here.

use coracle_proto::cri;

/// The version of the kubelet's side of the interface; it has been this one since the beginning.
const KUBELET_API: &str = "0.1.0";
/// What this runtime is called.
pub(crate) const RUNTIME_NAME: &str = "coracle";

pub(super) fn call() -> cri::VersionResponse {
    cri::VersionResponse {
        version: KUBELET_API.to_owned(),
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}
