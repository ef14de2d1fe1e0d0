//! RunPodSandbox: makes and starts a pod; a retry of the same request joins it.

use std::sync::Arc;

use coracle_proto::cri;
use coracle_types::RuntimeHandlerName;
use tonic::Status;

use crate::facilities::Facilities;
use crate::translate::{FieldError, sandbox};
use crate::{detached::detached, error};

const CALL: &str = "RunPodSandbox";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse, Status> {
    let config = request
        .config
        .ok_or_else(|| FieldError::missing("config"))
        .and_then(|config| sandbox::config(config).map_err(|e| e.within("config")))
        .map_err(|e| error::field(CALL, &e))?;
    let handler = RuntimeHandlerName(request.runtime_handler);
    let engine = Arc::clone(engine);
    let id = detached(CALL, async move { engine.run_pod_sandbox(config, handler).await }).await?;
    Ok(cri::RunPodSandboxResponse {
        pod_sandbox_id: id.into(),
    })
}
