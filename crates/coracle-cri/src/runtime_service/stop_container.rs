//! StopContainer: the stop signal, then KILL; a container that is unknown is stopped.

use std::sync::Arc;
use std::time::Duration;

use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::{detached::detached, error, translate};

const CALL: &str = "StopContainer";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    // A stop must not fail for its number: less than none is none.
    let timeout = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let engine = Arc::clone(engine);
    detached(CALL, async move { engine.stop_container(&id, timeout).await }).await?;
    Ok(cri::StopContainerResponse {})
}
