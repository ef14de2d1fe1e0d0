//! ImageFsInfo: the space of images and of containers' writable layers.

use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::image;

pub(super) async fn call<F: Facilities>(engine: &F) -> Result<cri::ImageFsInfoResponse, Status> {
    let info = engine
        .image_fs_info()
        .await
        .map_err(|failure| error::status(&failure))?;
    Ok(cri::ImageFsInfoResponse {
        image_filesystems: vec![image::usage(&info.images)],
        container_filesystems: vec![image::usage(&info.containers)],
    })
}
