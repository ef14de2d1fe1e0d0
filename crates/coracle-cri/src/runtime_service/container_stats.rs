//! ContainerStats: what one container uses.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{self, stats};

const CALL: &str = "ContainerStats";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    let found = engine
        .container_stats(&id)
        .await
        .map_err(|failure| error::status(&failure))?;
    Ok(cri::ContainerStatsResponse {
        stats: Some(stats::container(found)),
    })
}
