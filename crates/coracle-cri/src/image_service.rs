//! The service for images: every call of the CRI, each to its file.

use std::sync::Arc;

use coracle_proto::cri;
use coracle_proto::cri::image_service_server::ImageService;
use futures::stream;
use tonic::{Request, Response, Status};

use crate::error::unimplemented;
use crate::facilities::Facilities;

mod image_fs_info;
mod list_images;
mod pull_image;
mod remove_image;

/// [`ImageService`] in front of an engine.
#[derive(Debug)]
pub(crate) struct ImageCalls<F> {
    engine: Arc<F>,
}

impl<F> ImageCalls<F> {
    pub(crate) fn new(engine: Arc<F>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl<F: Facilities> ImageService for ImageCalls<F> {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        Ok(Response::new(list_images::list(
            &*self.engine,
            request.into_inner(),
        )))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        list_images::status(&*self.engine, request.into_inner()).map(Response::new)
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        pull_image::call(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        remove_image::call(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        Ok(Response::new(image_fs_info::call(&*self.engine).await))
    }

    type StreamImagesStream = stream::Empty<Result<cri::StreamImagesResponse, Status>>;

    async fn stream_images(
        &self,
        _: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Err(unimplemented("StreamImages"))
    }
}
