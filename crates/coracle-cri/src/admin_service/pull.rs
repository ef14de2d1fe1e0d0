//! Pull: an image, telling how far each layer is.

use std::sync::Arc;

use coracle_engine::api::PullImage;
use coracle_engine::operations::Client;
use coracle_image::{LayerProgress, Progress};
use coracle_proto::admin;
use coracle_proto::admin::pull_event::Event;
use coracle_types::image::ImageSpec;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{FieldError, image};

/// Events that may wait for a slow reader; further ones are dropped, since later ones say it anew.
const QUEUE: usize = 1024;

type Item = Result<admin::PullEvent, Status>;

/// Passes on what fits in the queue; a reader that is gone hears nothing and stops nothing.
struct Report(Sender<Item>);

impl Progress for Report {
    fn layer(&self, layer: &LayerProgress) {
        let event = Event::Layer(image::progress(layer));
        let _ = self.0.try_send(Ok(admin::PullEvent { event: Some(event) }));
    }
}

pub(super) fn call<F: Facilities>(
    engine: &Arc<F>,
    request: admin::PullRequest,
) -> Result<ReceiverStream<Item>, Status> {
    if request.reference.is_empty() {
        return Err(error::field("Pull", &FieldError::missing("reference")));
    }
    let pull = PullImage {
        image: ImageSpec {
            image: request.reference,
            runtime_handler: request.runtime_handler,
            ..ImageSpec::default()
        },
        credentials: image::admin_credentials(request.credentials),
        sandbox: None,
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let engine = Arc::clone(engine);
    let (client, presence) = Client::arrived();
    tokio::spawn(async move {
        let work = engine.pull_image(pull, Arc::new(Report(sender.clone())));
        let mut work = std::pin::pin!(client.asking(work));
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            // It goes on for others, and for who asks again.
            () = sender.closed() => {
                drop(presence);
                work.await
            }
        };
        let last = outcome
            .map(|found| admin::PullEvent {
                event: Some(Event::Image(image::admin_summary(&found))),
            })
            .map_err(|failure| error::status(&failure));
        // The reader may have left.
        let _ = sender.send(last).await;
    });
    Ok(ReceiverStream::new(receiver))
}
