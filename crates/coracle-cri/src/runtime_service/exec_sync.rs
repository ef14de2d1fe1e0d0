//! ExecSync: a command in a container, its output and its exit code.

use std::sync::Arc;
use std::time::Duration;

use coracle_engine::api::ExecSync;
use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;
use crate::translate::{self, FieldError};

const CALL: &str = "ExecSync";

pub(super) async fn call<F: Facilities>(
    engine: &Arc<F>,
    request: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Status> {
    let id = translate::id("container_id", request.container_id).map_err(|e| error::field(CALL, &e))?;
    let timeout = match u64::try_from(request.timeout) {
        Ok(0) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let problem = FieldError::new("timeout", request.timeout, "a number of seconds, or 0 for none");
            return Err(error::field(CALL, &problem));
        }
    };
    // Not detached: output that nobody reads any more is not worth waiting for.
    let output = engine
        .exec_sync(
            &id,
            ExecSync {
                command: request.cmd,
                timeout,
            },
        )
        .await
        .map_err(|failure| error::status(&failure))?;
    Ok(cri::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.code,
    })
}
