//! ListMetricDescriptors: the metrics that ListPodSandboxMetrics has values for.

use coracle_proto::cri;

use crate::facilities::Facilities;
use crate::translate::metrics;

pub(super) fn call<F: Facilities>(engine: &F) -> cri::ListMetricDescriptorsResponse {
    cri::ListMetricDescriptorsResponse {
        descriptors: metrics::descriptors(engine.measures()),
    }
}
