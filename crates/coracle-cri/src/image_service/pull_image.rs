//! PullImage: brings an image here; identical pulls under way are one, and a caller that leaves stops none.

use std::sync::Arc;

use coracle_engine::api::PullImage;
use coracle_proto::cri;
use tonic::Status;

use crate::facilities::Facilities;
use crate::translate::{image, sandbox};
use crate::{detached::detached, error};

const CALL: &str = "PullImage";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::PullImageRequest,
) -> Result<cri::PullImageResponse, Status> {
    let image = image::required(request.image).map_err(|e| error::field(CALL, &e))?;
    // crictl sends an empty configuration when it pulls for no pod.
    let sandbox = request
        .sandbox_config
        .filter(|config| config.metadata.is_some())
        .map(|config| sandbox::config(config).map_err(|e| e.within("sandbox_config")))
        .transpose()
        .map_err(|e| error::field(CALL, &e))?;
    let pull = PullImage {
        image,
        credentials: image::credentials(request.auth),
        sandbox,
    };
    let engine = Arc::clone(engine);
    let image = detached(CALL, async move { engine.pull_image(pull, Arc::new(())).await }).await?;
    Ok(cri::PullImageResponse {
        image_ref: image.id.to_string(),
    })
}
