//! UpdateContainerResources: other limits for a container, all of them or none.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::detached::detached;
use crate::error;
use crate::facilities::Facilities;
use crate::translate::{self, resources};

const CALL: &str = "UpdateContainerResources";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<cri::UpdateContainerResourcesResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    let resources = resources::from_wire(request.linux.unwrap_or_default());
    let engine = Arc::clone(engine);
    let work = async move { engine.update_container_resources(&id, resources).await };
    detached(CALL, work).await?;
    Ok(cri::UpdateContainerResourcesResponse {})
}
