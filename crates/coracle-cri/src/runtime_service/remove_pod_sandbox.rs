//! RemovePodSandbox: stops and forgets a pod; one that is unknown is removed.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::{detached::detached, error, translate};

const CALL: &str = "RemovePodSandbox";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse, Status> {
    let id = translate::id("pod_sandbox_id", request.pod_sandbox_id).map_err(|e| error::field(CALL, &e))?;
    let engine = Arc::clone(engine);
    detached(CALL, async move { engine.remove_pod_sandbox(&id).await }).await?;
    Ok(cri::RemovePodSandboxResponse {})
}
