//! ReloadConfig and ShowConfig: the configuration as it is in force, read again or only shown.

use coracle_proto::admin;
use tonic::Status;

use crate::error;
use crate::process::{Change, Control};

/// A configuration that cannot be used changes nothing: FailedPrecondition, with all that is wrong.
pub(super) async fn reload(control: &dyn Control) -> Result<admin::ReloadConfigResponse, Status> {
    let reloaded = control
        .reload()
        .await
        .map_err(|refused| Status::failed_precondition(error::cut(refused.0)))?;
    let change = |change: Change| admin::ConfigChange {
        key: change.key,
        from: change.from,
        to: change.to,
    };
    Ok(admin::ReloadConfigResponse {
        applied: reloaded.applied.into_iter().map(change).collect(),
        needs_restart: reloaded.needs_restart.into_iter().map(change).collect(),
        files: reloaded.files,
    })
}

pub(super) fn show(control: &dyn Control) -> admin::ShowConfigResponse {
    let settings = control.settings().into_iter();
    let settings = settings.map(|setting| admin::ConfigSetting {
        key: setting.key,
        value: setting.value,
        origin: setting.origin,
        live: setting.live,
        pending: setting.pending,
    });
    admin::ShowConfigResponse {
        settings: settings.collect(),
    }
}
