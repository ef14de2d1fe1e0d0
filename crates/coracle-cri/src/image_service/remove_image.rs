//! RemoveImage: an image with all its names; one that is unknown is removed.

use std::sync::Arc;

use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::translate::image;
use crate::{detached::detached, error};

const CALL: &str = "RemoveImage";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse, Status> {
    let image = image::required(request.image).map_err(|e| error::field(CALL, &e))?;
    let engine = Arc::clone(engine);
    detached(CALL, async move { engine.remove_image(&image).await }).await?;
    Ok(cri::RemoveImageResponse {})
}
