//! RemoveContainer: ends and forgets a container; one that is unknown is removed.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::{detached::detached, error, translate};

const CALL: &str = "RemoveContainer";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    let engine = Arc::clone(engine);
    detached(CALL, async move { engine.remove_container(&id).await }).await?;
    Ok(cri::RemoveContainerResponse {})
}
