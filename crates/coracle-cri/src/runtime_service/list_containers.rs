//! ListContainers: the containers that match all of a filter.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::container;

const CALL: &str = "ListContainers";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ListContainersRequest,
) -> Result<cri::ListContainersResponse, Status> {
    let filter = container::filter(request.filter).map_err(|e| error::field(CALL, &e))?;
    let images = super::images_of(engine);
    let found = engine.list_containers(&filter);
    Ok(cri::ListContainersResponse {
        containers: found
            .into_iter()
            .map(|summary| container::summary(summary, &images))
            .collect(),
    })
}
