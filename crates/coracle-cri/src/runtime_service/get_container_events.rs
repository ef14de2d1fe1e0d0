//! GetContainerEvents: what happens to pods and containers, as it happens.

use std::pin::Pin;
use std::sync::Arc;

use coracle_proto::cri;
use futures::{Stream, stream};
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::events;

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send>>;

/// Ends with `ResourceExhausted` for a reader that fell behind, with `Unavailable` when the daemon leaves.
pub(super) fn call<F: Facilities>(engine: &Arc<F>) -> Events {
    let following = engine.follow_events();
    let engine = Arc::clone(engine);
    Box::pin(stream::unfold(Some((following, engine)), |state| async move {
        let (mut following, engine) = state?;
        match following.next().await {
            Ok(Some(event)) => {
                let event = events::event(&event, &super::images_of(&engine));
                Some((Ok(event), Some((following, engine))))
            }
            Ok(None) => {
                let leaving = Status::unavailable("GetContainerEvents: the runtime is shutting down");
                Some((Err(leaving), None))
            }
            Err(behind) => Some((Err(error::status(&behind)), None)),
        }
    }))
}
