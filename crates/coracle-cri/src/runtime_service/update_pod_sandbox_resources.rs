//! UpdatePodSandboxResources: the kubelet tells what it has written to the pod's cgroup already.

use std::sync::Arc;

use coracle_engine::api::Detail;
use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate;

const CALL: &str = "UpdatePodSandboxResources";

/// The pod's cgroup is the kubelet's, so there is nothing to do for a pod that is there.
pub(super) fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<cri::UpdatePodSandboxResourcesResponse, Status> {
    let id = translate::id("pod_sandbox_id", request.pod_sandbox_id).map_err(|e| error::field(CALL, &e))?;
    engine
        .pod_sandbox_status(&id, Detail::Plain)
        .map_err(|failure| error::status(&failure))?;
    Ok(cri::UpdatePodSandboxResourcesResponse {})
}
