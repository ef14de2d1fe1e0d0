//! ListContainerStats: what the containers use that match all of a filter.

use std::sync::Arc;

use coracle_proto::cri;

use crate::facilities::Facilities;
use crate::translate::stats;

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ListContainerStatsRequest,
) -> cri::ListContainerStatsResponse {
    let filter = stats::container_filter(request.filter);
    let found = engine.list_container_stats(&filter).await;
    cri::ListContainerStatsResponse {
        stats: found.into_iter().map(stats::container).collect(),
    }
}
