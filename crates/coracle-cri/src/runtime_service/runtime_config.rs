//! RuntimeConfig and UpdateRuntimeConfig: who makes the cgroups, and the pods' address range.

use coracle_engine::api::CgroupDriver;
use coracle_proto::cri;
use tonic::Status;

use crate::error;
use crate::facilities::Facilities;

pub(super) fn get<F: Facilities>(engine: &F) -> cri::RuntimeConfigResponse {
    let driver = match engine.cgroup_driver() {
        CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
        CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
    };
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    }
}

/// The kubelet calls this when the node gets its range, and with nothing in it when it has none.
pub(super) fn update<F: Facilities>(
    engine: &F,
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse, Status> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    let cidr = network.map(|network| network.pod_cidr).unwrap_or_default();
    if !cidr.is_empty() {
        engine
            .update_pod_cidr(&cidr)
            .map_err(|failure| error::status(&failure))?;
    }
    Ok(cri::UpdateRuntimeConfigResponse {})
}
