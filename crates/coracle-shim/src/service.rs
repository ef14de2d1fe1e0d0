//! The shim's ttrpc services: translation between messages and the pod, nothing else.

mod extension;
mod sandbox;
mod task;

use std::sync::Arc;

use coracle_types::time::UnixNanos;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::net::UnixListener;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::error::Error;
use crate::pod::Pod;

/// Serves on `listener` until the pod is left.
pub(crate) async fn serve(
    pod: Arc<Pod>,
    listener: std::os::unix::net::UnixListener,
    set_log: fn(&str),
) -> Result<(), Error> {
    let listener = UnixListener::from_std(listener).map_err(Error::system("listen"))?;
    let mut server = Server::new()
        .add_listener(Listener::new(connections(listener)))
        .register_service(containerd_shim_protos::shim_async::create_task(Arc::new(
            task::Service(Arc::clone(&pod)),
        )))
        .register_service(containerd_shim_protos::sandbox_async::create_sandbox(Arc::new(
            sandbox::Service(Arc::clone(&pod)),
        )))
        .register_service(coracle_proto::shim_ext::create_shim(Arc::new(
            extension::Service {
                pod: Arc::clone(&pod),
                set_log,
            },
        )));
    let failed = |error: ttrpc::Error| Error::system("serve")(std::io::Error::other(error.to_string()));
    server.start().await.map_err(failed)?;
    pod.left().await;
    // Answers that are under way are sent; a client that reads none of them is not waited for long.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), server.shutdown()).await;
    Ok(())
}

/// Connections of root and of our own user; others are closed unheard.
fn connections(
    listener: UnixListener,
) -> impl futures::Stream<Item = std::io::Result<tokio::net::UnixStream>> + Send {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) if is_trusted(&connection) => return Some((Ok(connection), listener)),
                Ok(_) => {}
                Err(error) => {
                    // Out of descriptors, most likely: give others the time to close some.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    tracing::warn!(%error, "cannot accept a connection");
                }
            }
        }
    })
}

fn is_trusted(connection: &tokio::net::UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    connection
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

/// `None` for 0, "never".
fn timestamp(at: UnixNanos) -> MessageField<Timestamp> {
    if at.0 == 0 {
        return MessageField::none();
    }
    let mut stamp = Timestamp::new();
    stamp.seconds = at.0.div_euclid(1_000_000_000);
    stamp.nanos = i32::try_from(at.0.rem_euclid(1_000_000_000)).unwrap_or(0);
    MessageField::some(stamp)
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
