//! ImageService.

use std::collections::HashMap;
use std::sync::Arc;

use husk_proto::cri;
use husk_proto::cri::image_service_server::ImageService;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::auth::credentials;
use super::{chunks, list, view};
use crate::error::Error;
use crate::node::{Node, now_nanos};
use crate::pull_progress::PullProgress;

/// The service.
pub struct Images(pub Arc<Node>);

type Answer<T> = Result<Response<T>, Status>;

fn name(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        _ => Err(Status::invalid_argument("the image's name is missing")),
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let images = list::images(&self.0, request.into_inner().filter)?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<BoxStream<cri::StreamImagesResponse>> {
        let images = list::images(&self.0, request.into_inner().filter)?;
        Ok(Response::new(chunks::stream(images, |images| cri::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let name = name(request.into_inner().image)?;
        let image = self.0.images.status(&name).map_err(Error::from)?.map(view::image);
        Ok(Response::new(cri::ImageStatusResponse { image, info: HashMap::new() }))
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let auth = request.auth.map_or(Ok(None), |auth| credentials(auth, &name))?;
        let shown = name.clone();
        let pull = self.0.metrics.pull();
        let progress = pull.counted(PullProgress::new(move |line| tracing::info!(image = shown, "{line}")));
        let image = self.0.images.pull(&name, auth, &progress).await.map_err(Error::from)?;
        pull.succeeded();
        tracing::info!(image = name, id = image.id, size = image.size, "image is pulled");
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let name = name(request.into_inner().image)?;
        if let Some(image) = self.0.images.status(&name).map_err(Error::from)? {
            self.0.check_unused(&image.id)?;
        }
        self.0.images.remove(&name).map_err(Error::from)?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        let images = self.0.images.usage().map_err(Error::from)?;
        let scratch = self.0.scratch_usage()?;
        let filesystem = |bytes, inodes| cri::FilesystemUsage {
            timestamp: now_nanos(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: self.0.config.root.display().to_string() }),
            used_bytes: Some(cri::UInt64Value { value: bytes }),
            inodes_used: Some(cri::UInt64Value { value: inodes }),
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![filesystem(images.bytes, images.inodes)],
            container_filesystems: vec![filesystem(scratch.0, scratch.1)],
        }))
    }
}
