//! PodSandboxStats: what one ready pod uses.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{self, stats};

const CALL: &str = "PodSandboxStats";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::PodSandboxStatsRequest,
) -> Result<cri::PodSandboxStatsResponse, Status> {
    let id = translate::id("pod_sandbox_id", request.pod_sandbox_id).map_err(|e| error::field(CALL, &e))?;
    let found = engine
        .pod_stats(&id)
        .await
        .map_err(|failure| error::status(&failure))?;
    Ok(cri::PodSandboxStatsResponse {
        stats: Some(stats::pod(found)),
    })
}
