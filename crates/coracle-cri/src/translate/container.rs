//! Containers.

use std::sync::Arc;

use coracle_engine::api::{ContainerFilter, ContainerStatus, ContainerSummary};
use coracle_image::Image;
use coracle_proto::cri;
use coracle_types::Digest;
use coracle_types::container::{
    ContainerConfig, ContainerMetadata, ContainerState, Device, Mount, MountPropagation,
};
use coracle_types::image::ImageSpec;

use super::{FieldError, id_filter, image, known, resources, security, signal};

/// What the node knows of an image by its id; `None` when it is gone.
pub(crate) type ImageLookup<'a> = dyn Fn(&Digest) -> Option<Arc<Image>> + 'a;

pub(crate) fn config(wire: cri::ContainerConfig) -> Result<ContainerConfig, FieldError> {
    let metadata = wire.metadata.ok_or_else(|| FieldError::missing("metadata"))?;
    let linux = wire.linux.unwrap_or_default();
    let mounts = wire
        .mounts
        .into_iter()
        .enumerate()
        .map(|(index, wire)| mount(wire).map_err(|e| e.within(&format!("mounts[{index}]"))))
        .collect::<Result<_, _>>()?;
    Ok(ContainerConfig {
        metadata: ContainerMetadata {
            name: metadata.name,
            attempt: metadata.attempt,
        },
        image: image::spec(wire.image.ok_or_else(|| FieldError::missing("image"))?),
        command: wire.command,
        args: wire.args,
        working_dir: wire.working_dir,
        envs: wire.envs.into_iter().map(|env| (env.key, env.value)).collect(),
        mounts,
        devices: wire
            .devices
            .into_iter()
            .map(|device| Device {
                container_path: device.container_path,
                host_path: device.host_path,
                permissions: device.permissions,
            })
            .collect(),
        cdi_devices: wire.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: wire.labels,
        annotations: wire.annotations,
        log_path: wire.log_path,
        stdin: wire.stdin,
        stdin_once: wire.stdin_once,
        tty: wire.tty,
        resources: resources::from_wire(linux.resources.unwrap_or_default()),
        security: security::container(linux.security_context.unwrap_or_default())
            .map_err(|e| e.within("linux.security_context"))?,
        stop_signal: signal::from_wire("stop_signal", wire.stop_signal)?,
    })
}

fn mount(wire: cri::Mount) -> Result<Mount, FieldError> {
    Ok(Mount {
        container_path: wire.container_path,
        host_path: wire.host_path,
        readonly: wire.readonly,
        recursive_read_only: wire.recursive_read_only,
        selinux_relabel: wire.selinux_relabel,
        propagation: match known("propagation", wire.propagation)? {
            cri::MountPropagation::PropagationPrivate => MountPropagation::Private,
            cri::MountPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
            cri::MountPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
        },
        uid_mappings: security::mappings(wire.uid_mappings),
        gid_mappings: security::mappings(wire.gid_mappings),
        // crictl and the kubelet send an empty message where no image is meant.
        image: wire.image.map(image::spec).filter(|spec| !spec.image.is_empty()),
        image_sub_path: wire.image_sub_path,
        mount_options: wire.mount_options,
    })
}

fn mount_to_wire(own: Mount) -> cri::Mount {
    let propagation = match own.propagation {
        MountPropagation::Private => cri::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: own.container_path,
        host_path: own.host_path,
        readonly: own.readonly,
        recursive_read_only: own.recursive_read_only,
        selinux_relabel: own.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: security::mappings_to_wire(own.uid_mappings),
        gid_mappings: security::mappings_to_wire(own.gid_mappings),
        image: own.image.map(image::spec_to_wire),
        image_sub_path: own.image_sub_path,
        mount_options: own.mount_options,
    }
}

pub(crate) fn filter(wire: Option<cri::ContainerFilter>) -> Result<ContainerFilter, FieldError> {
    let Some(wire) = wire else {
        return Ok(ContainerFilter::default());
    };
    let state = wire
        .state
        .map(|value| known("filter.state", value.state))
        .transpose()?;
    Ok(ContainerFilter {
        id: id_filter(wire.id),
        pod: id_filter(wire.pod_sandbox_id),
        state: state.map(|state| match state {
            cri::ContainerState::ContainerCreated => ContainerState::Created,
            cri::ContainerState::ContainerRunning => ContainerState::Running,
            cri::ContainerState::ContainerExited => ContainerState::Exited,
            cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
        }),
        labels: wire.label_selector,
    })
}

fn state(own: ContainerState) -> i32 {
    let wire = match own {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    };
    wire.into()
}

/// A digest in a registry, by which anyone can pull the same; else the id.
fn image_ref(id: &Digest, known: Option<&Image>) -> String {
    known
        .and_then(|image| image.repo_digests.first().cloned())
        .unwrap_or_else(|| id.to_string())
}

/// The kubelet names images by id once it has resolved them; people want the name.
fn named(mut spec: ImageSpec, id: &Digest, known: Option<&Image>) -> cri::ImageSpec {
    let is_id = spec.image == id.as_str() || spec.image == id.hex() || spec.image.is_empty();
    if is_id {
        spec.image = match known {
            _ if !spec.user_specified_image.is_empty() => spec.user_specified_image.clone(),
            Some(image) => image.repo_tags.first().cloned().unwrap_or(spec.image),
            None => spec.image,
        };
    }
    if spec.image.is_empty() {
        spec.image = id.to_string();
    }
    image::spec_to_wire(spec)
}

pub(crate) fn summary(own: ContainerSummary, image_of: &ImageLookup<'_>) -> cri::Container {
    let image = image_of(&own.image_id);
    cri::Container {
        id: own.id.into(),
        pod_sandbox_id: own.pod.into(),
        metadata: Some(cri::ContainerMetadata {
            name: own.metadata.name,
            attempt: own.metadata.attempt,
        }),
        image: Some(named(own.image, &own.image_id, image.as_deref())),
        image_ref: image_ref(&own.image_id, image.as_deref()),
        state: state(own.state),
        created_at: own.created_at.0,
        labels: own.labels,
        annotations: own.annotations,
        image_id: own.image_id.into(),
    }
}

pub(crate) fn status(own: ContainerStatus, image_of: &ImageLookup<'_>) -> cri::ContainerStatus {
    let container = own.summary;
    let image = image_of(&container.image_id);
    cri::ContainerStatus {
        id: container.id.into(),
        metadata: Some(cri::ContainerMetadata {
            name: container.metadata.name,
            attempt: container.metadata.attempt,
        }),
        state: state(container.state),
        created_at: container.created_at.0,
        started_at: own.started_at.0,
        finished_at: own.finished_at.0,
        exit_code: own.exit_code,
        image: Some(named(container.image, &container.image_id, image.as_deref())),
        image_ref: image_ref(&container.image_id, image.as_deref()),
        reason: own.reason,
        message: own.message,
        labels: container.labels,
        annotations: container.annotations,
        mounts: own.mounts.into_iter().map(mount_to_wire).collect(),
        log_path: own.log_path,
        resources: Some(cri::ContainerResources {
            linux: Some(resources::to_wire(own.resources)),
            windows: None,
        }),
        image_id: container.image_id.into(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: own.user.uid.into(),
                gid: own.user.gid.into(),
                supplemental_groups: own.user.additional_gids.into_iter().map(i64::from).collect(),
            }),
        }),
        stop_signal: signal::to_wire(own.stop_signal).into(),
    }
}

#[cfg(test)]
mod tests;
