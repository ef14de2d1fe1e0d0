//! ImageFsInfo: the space of images and of containers' writable layers.

use coracle_proto::cri;

use crate::facilities::Facilities;
use crate::translate::image;

pub(super) async fn call<F: Facilities>(engine: &F) -> cri::ImageFsInfoResponse {
    let info = engine.image_fs_info().await;
    cri::ImageFsInfoResponse {
        image_filesystems: vec![image::usage(&info.images)],
        container_filesystems: vec![image::usage(&info.containers)],
    }
}
