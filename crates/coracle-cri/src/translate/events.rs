//! Events, as the kubelet's evented PLEG reads them.

use coracle_engine::events::{Event, EventKind};
use coracle_proto::cri;

use super::container::ImageLookup;
use super::sandbox;

/// An event of the sandbox itself bears the sandbox's id where a container's is.
pub(crate) fn event(own: &Event, image_of: &ImageLookup<'_>) -> cri::ContainerEventResponse {
    let kind = match own.kind {
        EventKind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => cri::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let id = match &own.container {
        Some(id) => id.to_string(),
        None => own.pod.summary.id.to_string(),
    };
    let status = sandbox::status(own.pod.clone(), image_of);
    cri::ContainerEventResponse {
        container_id: id,
        container_event_type: kind.into(),
        created_at: own.at.0,
        pod_sandbox_status: status.status,
        containers_statuses: status.containers_statuses,
    }
}
