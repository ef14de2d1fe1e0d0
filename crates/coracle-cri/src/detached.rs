//! Work that goes on when its caller has left.

use std::future::Future;

use coracle_engine::EngineError;
use tonic::Status;

use crate::error;

/// Runs `work` in a task of its own and waits for it; whoever stops waiting does not stop the work.
pub(crate) async fn detached<T: Send + 'static>(
    call: &'static str,
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map_err(|failure| error::status(&failure)),
        Err(gone) if gone.is_panic() => Err(Status::internal(format!(
            "{call}: a fault of this program; its log says where"
        ))),
        Err(_) => Err(Status::unavailable(format!(
            "{call}: the runtime is shutting down"
        ))),
    }
}
