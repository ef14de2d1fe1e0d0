//! Serving: one listener, three services, limits, and an end that does not wait for ever.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use coracle_proto::admin::admin_server::AdminServer;
use coracle_proto::client::MAX_MESSAGE;
use coracle_proto::cri::image_service_server::ImageServiceServer;
use coracle_proto::cri::runtime_service_server::RuntimeServiceServer;
use coracle_types::{Kind, Kinded};
use futures::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tonic::transport::Server;

use crate::admin_service::AdminCalls;
use crate::facilities::Facilities;
use crate::image_service::ImageCalls;
use crate::layer::CallLayer;
use crate::process::Process;
use crate::runtime_service::RuntimeCalls;

/// Calls under way on one connection; the kubelet has one for all its pods.
const MAX_STREAMS: u32 = 8192;
/// Pause after an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The server ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport gave up.
    #[error("serve the CRI")]
    Transport(#[source] tonic::transport::Error),
}

impl Kinded for ServeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Transport(_) => Kind::Internal,
        }
    }
}

/// Serves the CRI and the admin service on `listener` until `shutdown` resolves; calls under way then
/// have the process's time to drain.
///
/// # Errors
/// When the transport gives up.
pub async fn serve<F: Facilities>(
    engine: Arc<F>,
    process: Process,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let runtime = RuntimeServiceServer::new(RuntimeCalls::new(Arc::clone(&engine)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let images = ImageServiceServer::new(ImageCalls::new(Arc::clone(&engine)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let admin = AdminServer::new(AdminCalls::new(Arc::clone(&engine), process.control))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);

    let (end, ended) = oneshot::channel::<()>();
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .layer(CallLayer::new(process.meter))
        .add_service(runtime)
        .add_service(images)
        .add_service(admin)
        .serve_with_incoming_shutdown(connections(listener), async {
            // An error means that `end` is gone, which is an end as well.
            let _ = ended.await;
        });
    let mut serving = pin!(serving);
    tokio::select! {
        outcome = &mut serving => return outcome.map_err(ServeError::Transport),
        () = shutdown => {}
    }
    engine.end_streams();
    let _ = end.send(());
    match tokio::time::timeout(process.drain, serving).await {
        Ok(outcome) => outcome.map_err(ServeError::Transport),
        Err(_) => {
            tracing::info!(after = ?process.drain, "left calls under way at shutdown");
            Ok(())
        }
    }
}

/// Connections as they come. An accept that fails is tried again: it must not end the daemon, nor
/// spin while descriptors are scarce.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(failure) => {
                    tracing::warn!(error = %failure, "accept on the CRI socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
