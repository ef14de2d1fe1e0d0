//! Where keeper and shims live: on a node that systemd runs, in a scope of their own, so that systemd knows whose
//! processes they are and a stop of the daemon's service does not reach them.

use std::path::Path;
use std::sync::Arc;

use coracle_systemd::{Scope, SliceName, Systemd, UnitName};
use coracle_task::{Settle, ShimsConfig};

use crate::config::EngineConfig;

/// Has each keeper put into a scope in the slice that `runtime_cgroup` names; shims are forked in it. Where systemd is
/// not there, or the cgroup is no slice, the keeper makes its cgroup itself.
///
/// A slice may hold processes of cgroupfs's making or units of systemd's, not both: with a keeper in the slice itself
/// systemd could give no controllers to pods below it (EBUSY).
pub(super) async fn of_keeper(
    mut shims: ShimsConfig,
    config: &EngineConfig,
    systemd: &Arc<Systemd>,
) -> ShimsConfig {
    let Ok(slice) = SliceName::of_path(&config.runtime_cgroup) else {
        return shims;
    };
    if !coracle_systemd::booted() {
        return shims;
    }
    if let Err(error) = systemd.reach().await {
        tracing::warn!(%error, "keeper and shims make their cgroup themselves");
        return shims;
    }
    // To stay where it is until it is settled.
    shims.cgroup = String::new();
    let (systemd, instance) = (Arc::clone(systemd), config.instance.clone());
    let runtime = tokio::runtime::Handle::current();
    shims.settle = Some(Settle(Arc::new(move |socket: &Path, pid: i32| {
        let program = socket.file_stem().unwrap_or_default().to_string_lossy();
        let prefix = format!("{instance}-keeper");
        let settled = UnitName::scope(&prefix, &program)
            .map_err(|error| error.to_string())
            .and_then(|name| {
                let scope = Scope {
                    name,
                    slice: slice.clone(),
                    description: format!("Keeper and shims of {instance}"),
                    pid: pid.unsigned_abs(),
                    properties: Vec::new(),
                };
                runtime
                    .block_on(systemd.hold(&scope))
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = settled {
            tracing::warn!(pid, %error, "keeper and shims stay in the daemon's own cgroup: stop its service with KillMode=process only");
        }
    })));
    shims
}
