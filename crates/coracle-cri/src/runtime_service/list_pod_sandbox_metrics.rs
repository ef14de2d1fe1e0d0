//! ListPodSandboxMetrics: numbers of ready pods and their running containers, for cAdvisor's readers.

use std::sync::Arc;

use coracle_proto::cri;

use crate::facilities::Facilities;
use crate::translate::metrics;

pub(super) async fn call<F: Facilities>(engine: &Arc<F>) -> cri::ListPodSandboxMetricsResponse {
    let found = engine.pod_metrics().await;
    cri::ListPodSandboxMetricsResponse {
        pod_metrics: found.iter().map(metrics::pod).collect(),
    }
}
