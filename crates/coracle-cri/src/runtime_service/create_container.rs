//! CreateContainer: makes a container in a ready pod.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::translate::{self, FieldError, container};
use crate::{detached::detached, error};

const CALL: &str = "CreateContainer";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, Status> {
    let pod = translate::id("pod_sandbox_id", request.pod_sandbox_id).map_err(|e| error::field(CALL, &e))?;
    // The pod's configuration comes with the request, too; the engine has the one the pod was made with.
    let config = request
        .config
        .ok_or_else(|| FieldError::missing("config"))
        .and_then(|config| container::config(config).map_err(|e| e.within("config")))
        .map_err(|e| error::field(CALL, &e))?;
    let engine = Arc::clone(engine);
    let id = detached(CALL, async move { engine.create_container(&pod, config).await }).await?;
    Ok(cri::CreateContainerResponse {
        container_id: id.into(),
    })
}
