//! ReopenContainerLog: a new log file after the old one was renamed.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::{detached::detached, error, translate};

const CALL: &str = "ReopenContainerLog";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    let engine = Arc::clone(engine);
    detached(CALL, async move { engine.reopen_container_log(&id).await }).await?;
    Ok(cri::ReopenContainerLogResponse {})
}
