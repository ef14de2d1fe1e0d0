//! Push: an image to a registry, telling how far each layer is.

use std::sync::Arc;

use coracle_engine::operations::Client;
use coracle_image::{LayerProgress, Progress, PushRequest};
use coracle_proto::admin;
use coracle_proto::admin::push_event::Event;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{FieldError, image};

/// Events that may wait for a slow reader; further ones are dropped, since later ones say it anew.
const QUEUE: usize = 1024;

type Item = Result<admin::PushEvent, Status>;

/// Passes on what fits in the queue.
struct Report(Sender<Item>);

impl Progress for Report {
    fn layer(&self, layer: &LayerProgress) {
        let event = Some(Event::Layer(image::progress(layer)));
        let _ = self.0.try_send(Ok(admin::PushEvent { event }));
    }
}

pub(super) fn call<F: Facilities>(
    engine: &Arc<F>,
    request: admin::PushRequest,
) -> Result<ReceiverStream<Item>, Status> {
    if request.image.is_empty() {
        return Err(error::field("Push", &FieldError::missing("image")));
    }
    let push = PushRequest {
        name: request.image,
        destination: request.destination,
        credentials: image::admin_credentials(request.credentials),
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let (client, _presence) = Client::arrived();
        let work = client.asking(engine.push_image(push, Arc::new(Report(sender.clone()))));
        // A client that has left wants no image to turn up later.
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = sender.closed() => return,
        };
        let last = outcome
            .map(|pushed| admin::PushEvent {
                event: Some(Event::Pushed(admin::Pushed {
                    reference: pushed.reference,
                    digest: pushed.digest.to_string(),
                    notes: pushed.notes,
                })),
            })
            .map_err(|failure| error::status(&failure));
        let _ = sender.send(last).await;
    });
    Ok(ReceiverStream::new(receiver))
}
