//! ListPodSandbox: the pods that match all of a filter.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::sandbox;

const CALL: &str = "ListPodSandbox";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ListPodSandboxRequest,
) -> Result<cri::ListPodSandboxResponse, Status> {
    let filter = sandbox::filter(request.filter).map_err(|e| error::field(CALL, &e))?;
    let pods = engine.list_pod_sandboxes(&filter);
    Ok(cri::ListPodSandboxResponse {
        items: pods.into_iter().map(sandbox::summary).collect(),
    })
}
