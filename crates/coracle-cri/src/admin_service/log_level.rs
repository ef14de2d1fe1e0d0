//! SetLogLevel: what is logged from now on.

use coracle_proto::admin;
use tonic::Status;

use crate::error;
use crate::process::Control;
use crate::translate::FieldError;

pub(super) fn call(
    control: &dyn Control,
    request: &admin::SetLogLevelRequest,
) -> Result<admin::SetLogLevelResponse, Status> {
    if request.filter.is_empty() {
        return Err(error::field("SetLogLevel", &FieldError::missing("filter")));
    }
    let before = control
        .set_log_level(&request.filter)
        .map_err(|refused| Status::invalid_argument(error::cut(format!("SetLogLevel: {}", refused.0))))?;
    Ok(admin::SetLogLevelResponse { before })
}
