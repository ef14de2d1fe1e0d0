//! PodSandboxStatus: a pod with its containers, at one moment.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{self, sandbox};

const CALL: &str = "PodSandboxStatus";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, Status> {
    let id = translate::id("pod_sandbox_id", request.pod_sandbox_id).map_err(|e| error::field(CALL, &e))?;
    let status = engine
        .pod_sandbox_status(&id, translate::detail(request.verbose))
        .map_err(|failure| error::status(&failure))?;
    Ok(sandbox::status(status, &super::images_of(engine)))
}
