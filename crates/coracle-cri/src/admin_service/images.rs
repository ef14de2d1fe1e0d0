//! Load, Save, ImageDetails and PruneImages: images for people.

use std::io::{Seek as _, Write as _};
use std::sync::Arc;

use coracle_engine::api::PruneImages;
use coracle_image::{ArchiveForm, SaveRequest};
use coracle_proto::admin;
use coracle_proto::admin::save_event::Event;
use coracle_types::Kind;
use coracle_types::time::UnixNanos;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::detached::detached;
use crate::error;
use crate::facilities::Facilities;
use crate::translate::{FieldError, image};

/// Events between the archive's writer and the client.
const QUEUE: usize = 4;

/// What is sent lies in a file without a name until all of it is here.
pub(super) async fn load<F: Facilities>(
    engine: &Arc<F>,
    mut sent: Streaming<admin::LoadRequest>,
) -> Result<admin::ImportResponse, Status> {
    let mut file = engine.archive_file().map_err(|failure| error::status(&failure))?;
    while let Some(request) = sent.message().await? {
        let write = move || file.write_all(&request.chunk).map(|()| file);
        let written = tokio::task::spawn_blocking(write).await;
        file = written
            .map_err(|_| Status::internal("Load: a fault of this program; its log says where"))?
            .map_err(|cause| keep(&cause))?;
    }
    file.rewind().map_err(|cause| keep(&cause))?;
    let engine = Arc::clone(engine);
    let images = detached("Load", async move { engine.load_images(file).await }).await?;
    Ok(admin::ImportResponse {
        images: images.iter().map(|found| image::admin_summary(found)).collect(),
    })
}

fn keep(cause: &std::io::Error) -> Status {
    let kind = match cause.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
        _ => Kind::Internal,
    };
    error::of_kind(kind, format!("Load: the archive cannot be kept: {cause}"))
}

pub(super) async fn save<F: Facilities>(
    engine: &Arc<F>,
    request: admin::SaveRequest,
) -> Result<ReceiverStream<Result<admin::SaveEvent, Status>>, Status> {
    if request.images.is_empty() {
        return Err(error::field("Save", &FieldError::missing("images")));
    }
    let form = match request.form() {
        admin::ArchiveForm::Docker => ArchiveForm::Docker,
        admin::ArchiveForm::Oci | admin::ArchiveForm::Unspecified => ArchiveForm::Oci,
    };
    let request = SaveRequest {
        names: request.images,
        form,
        offline: request.offline,
        credentials: image::admin_credentials(request.credentials),
    };
    let engine = Arc::clone(engine);
    let mut saved = detached("Save", async move { engine.save_images(request).await }).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let notes = std::mem::take(&mut saved.notes);
        for note in notes {
            let event = Some(Event::Note(note));
            // A client that has left is noticed below.
            let _ = sender.send(Ok(admin::SaveEvent { event })).await;
        }
        while let Some(chunk) = saved.bytes.recv().await {
            let event = chunk
                .map(|bytes| admin::SaveEvent {
                    event: Some(Event::Chunk(bytes.into())),
                })
                .map_err(|cause| error::of_kind(Kind::Internal, format!("Save: {cause}")));
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

pub(super) async fn details<F: Facilities>(
    engine: &F,
    name: &str,
) -> Result<admin::ImageDetailsResponse, Status> {
    if name.is_empty() {
        return Err(error::field("ImageDetails", &FieldError::missing("image")));
    }
    let details = engine
        .image_details(name)
        .await
        .map_err(|failure| error::status(&failure))?;
    let document = |digest: &coracle_types::Digest, text: &[u8]| admin::ImageDocument {
        digest: digest.to_string(),
        text: String::from_utf8_lossy(text).into_owned(),
    };
    let blobs = details.blobs.iter().map(|blob| admin::ImageBlob {
        what: blob.what.to_owned(),
        digest: blob.digest.to_string(),
        size: blob.size,
        origin: blob.origin.as_ref().map(ToString::to_string).unwrap_or_default(),
        came_at: blob.origin.as_ref().map_or(0, |origin| origin.at.0),
    });
    let layers = details.layers.iter().map(|(id, usage)| admin::ImageLayer {
        id: id.to_string(),
        bytes: usage.bytes,
        inodes: usage.inodes,
    });
    let manifests = details.manifests.iter();
    Ok(admin::ImageDetailsResponse {
        image: Some(image::admin_summary(&details.image)),
        manifests: manifests.map(|(digest, text)| document(digest, text)).collect(),
        config: Some(document(&details.image.id, &details.config)),
        blobs: blobs.collect(),
        layers: layers.collect(),
    })
}

pub(super) async fn prune<F: Facilities>(
    engine: &Arc<F>,
    request: admin::PruneImagesRequest,
) -> Result<admin::PruneImagesResponse, Status> {
    let prune = PruneImages {
        all: request.all,
        before: (request.before > 0).then_some(UnixNanos(request.before)),
        dry_run: request.dry_run,
    };
    let engine = Arc::clone(engine);
    let pruned = detached("PruneImages", async move { engine.prune_images(prune).await }).await?;
    Ok(admin::PruneImagesResponse {
        images: pruned
            .images
            .iter()
            .map(|found| image::admin_summary(found))
            .collect(),
        bytes: pruned.bytes,
        inodes: pruned.inodes,
    })
}
