//! Work that goes on when its caller has left.

use std::future::Future;

use coracle_engine::EngineError;
use coracle_engine::operations::Client;
use tonic::Status;
use tracing::Instrument as _;

use crate::error;

/// Runs `work` in a task of its own and waits for it; whoever stops waiting does not stop the work, but is
/// no longer counted among those who wait for it.
pub(crate) async fn detached<T: Send + 'static>(
    call: &'static str,
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, Status> {
    let (client, _presence) = Client::arrived();
    match tokio::spawn(client.asking(work).in_current_span()).await {
        Ok(outcome) => outcome.map_err(|failure| error::status(&failure)),
        Err(gone) if gone.is_panic() => Err(Status::internal(format!(
            "{call}: a fault of this program; its log says where"
        ))),
        Err(_) => Err(Status::unavailable(format!(
            "{call}: the runtime is shutting down"
        ))),
    }
}
