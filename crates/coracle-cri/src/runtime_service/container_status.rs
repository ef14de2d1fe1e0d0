//! ContainerStatus: a container, whole.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{self, container};

const CALL: &str = "ContainerStatus";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    let mut status = engine
        .container_status(&id, translate::detail(request.verbose))
        .map_err(|failure| error::status(&failure))?;
    let info = std::mem::take(&mut status.info);
    Ok(cri::ContainerStatusResponse {
        status: Some(container::status(status, &super::images_of(engine))),
        info,
    })
}
