//! `inspect`: all that is known of a pod, a container or an image, as JSON.

use std::collections::BTreeMap;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{ContainerStatusRequest, ImageSpec, ImageStatusRequest, PodSandboxStatusRequest};
use serde_json::{Value, json};

use super::find::{self, Object};
use super::lists::state_word;
use crate::terminal;

/// Shows one object.
pub(crate) async fn show(client: &Client, text: &str) -> anyhow::Result<()> {
    let object = match find::object(client, text).await {
        Ok(object) => object,
        Err(error) => match image(client, text).await? {
            Some(image) => return terminal::json(&image),
            None => return Err(error),
        },
    };
    match object {
        Object::Pod(pod) => terminal::json(&pod_value(client, &pod.id).await?),
        Object::Container(container) => terminal::json(&container_value(client, &container.id).await?),
    }
}

async fn pod_value(client: &Client, id: &str) -> anyhow::Result<Value> {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: true,
    };
    let reply = client
        .runtime()
        .pod_sandbox_status(request)
        .await
        .map_err(ClientError::of("PodSandboxStatus"))?;
    let reply = reply.into_inner();
    let status = reply.status.unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let network = status.network.clone().unwrap_or_default();
    Ok(json!({
        "kind": "pod",
        "id": status.id,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        "attempt": metadata.attempt,
        "state": format!("{:?}", status.state()),
        "created_at": status.created_at,
        "ip": network.ip,
        "additional_ips": network.additional_ips.iter().map(|ip| &ip.ip).collect::<Vec<_>>(),
        "handler": status.runtime_handler,
        "labels": status.labels,
        "annotations": status.annotations,
        "containers": reply.containers_statuses.iter().map(|one| &one.id).collect::<Vec<_>>(),
        "info": info(&reply.info),
    }))
}

async fn container_value(client: &Client, id: &str) -> anyhow::Result<Value> {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let reply = client
        .runtime()
        .container_status(request)
        .await
        .map_err(ClientError::of("ContainerStatus"))?;
    let reply = reply.into_inner();
    let status = reply.status.unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    Ok(json!({
        "kind": "container",
        "id": status.id,
        "name": metadata.name,
        "attempt": metadata.attempt,
        "state": state_word(status.state()),
        "created_at": status.created_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at,
        "exit_code": status.exit_code,
        "reason": status.reason,
        "message": status.message,
        "image": status.image.as_ref().map(|image| &image.image),
        "image_id": status.image_id,
        "log_path": status.log_path,
        "labels": status.labels,
        "annotations": status.annotations,
        "info": info(&reply.info),
    }))
}

async fn image(client: &Client, text: &str) -> anyhow::Result<Option<Value>> {
    let image = Some(ImageSpec {
        image: text.to_owned(),
        ..ImageSpec::default()
    });
    let request = ImageStatusRequest { image, verbose: true };
    let reply = client
        .images()
        .image_status(request)
        .await
        .map_err(ClientError::of("ImageStatus"))?;
    let reply = reply.into_inner();
    Ok(reply.image.map(|image| {
        json!({
            "kind": "image",
            "id": image.id,
            "tags": image.repo_tags,
            "digests": image.repo_digests,
            "size": image.size,
            "user": image.username,
            "uid": image.uid.map(|uid| uid.value),
            "pinned": image.pinned,
            "info": info(&reply.info),
        })
    }))
}

/// Topics whose text is JSON become JSON.
fn info(topics: &BTreeMap<String, String>) -> Value {
    let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
    topics
        .iter()
        .map(|(topic, text)| (topic.clone(), value(text)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
