//! ListImages and ImageStatus: what is known of images, from memory.

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::image;

pub(super) fn list<F: Facilities>(engine: &F, request: cri::ListImagesRequest) -> cri::ListImagesResponse {
    let wanted = request
        .filter
        .and_then(|filter| filter.image)
        .map(image::spec)
        .filter(|spec| !spec.image.is_empty());
    let images = engine.list_images(wanted.as_ref());
    cri::ListImagesResponse {
        images: images.iter().map(|found| image::to_wire(found)).collect(),
    }
}

/// An image that is not there is an empty reply and no error.
pub(super) fn status<F: Facilities>(
    engine: &F,
    request: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse, Status> {
    let wanted = image::required(request.image).map_err(|e| error::field("ImageStatus", &e))?;
    Ok(match engine.image_status(&wanted) {
        None => cri::ImageStatusResponse::default(),
        Some(found) => cri::ImageStatusResponse {
            image: Some(image::to_wire(&found)),
            info: if request.verbose {
                image::info(&found)
            } else {
                Default::default()
            },
        },
    })
}
