//! ListPodSandboxStats: what the ready pods use that match all of a filter.

use std::sync::Arc;

use coracle_proto::cri;

use crate::facilities::Facilities;
use crate::translate::stats;

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ListPodSandboxStatsRequest,
) -> cri::ListPodSandboxStatsResponse {
    let filter = stats::pod_filter(request.filter);
    let found = engine.list_pod_stats(&filter).await;
    cri::ListPodSandboxStatsResponse {
        stats: found.into_iter().map(stats::pod).collect(),
    }
}
