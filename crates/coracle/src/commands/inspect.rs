//! `inspect`: all that is known of a pod, a container or an image, as JSON.

use std::collections::BTreeMap;

use coracle_proto::admin::{ImageDetailsResponse, ImageDocument};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ContainerStatusRequest, ContainerStatusResponse, Image, ImageSpec, ImageStatusRequest,
    PodSandboxStatusRequest, PodSandboxStatusResponse,
};
use coracle_types::{Kind, Kinded};
use serde_json::{Value, json};

use super::find::{self, Object, Objects};
use super::lists::state_word;
use super::{images, tree};
use crate::cli::Output;
use crate::terminal::{Screen, Status, Trouble, clean, instant};

/// Shows one object.
pub(crate) async fn show(client: &Client, text: &str, screen: &Screen) -> anyhow::Result<()> {
    let objects = Objects::load(client).await?;
    let (name, value) = match objects.object(text) {
        Ok(Object::Pod(pod)) => (objects.path_of_pod(&pod), pod_value(client, &pod.id).await?),
        Ok(Object::Container(one)) => (
            objects.path_of_container(&one),
            container_value(client, &one.id).await?,
        ),
        Err(trouble) => match images::meant(client, text).await? {
            Some(found) => (
                format!("image/{}", found.id),
                image_value(client, &found.id).await?,
            ),
            None if trouble.is(Status::NotFound) => return Err(nothing(text).into()),
            None => return Err(trouble.into()),
        },
    };
    tell(&name, &value, screen)
}

fn tell(name: &str, value: &Value, screen: &Screen) -> anyhow::Result<()> {
    if screen.output == Output::Name {
        return Ok(screen.line(clean(name))?);
    }
    screen.value(value)
}

/// Nothing is called so.
pub(super) fn nothing(text: &str) -> Trouble {
    Trouble::new(format!("there is no pod, container or image {text:?}"))
        .next("`coracle pods --all`, `coracle ps --all` and `coracle images` show what there is")
        .status(Status::NotFound)
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
    Ok(of_pod(&reply.into_inner()))
}

fn of_pod(reply: &PodSandboxStatusResponse) -> Value {
    let status = reply.status.clone().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let network = status.network.clone().unwrap_or_default();
    json!({
        "kind": "pod",
        "id": status.id,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        "attempt": metadata.attempt,
        "state": find::pod_state_word(status.state()),
        "created_at": status.created_at,
        "created": instant(status.created_at),
        "ip": network.ip,
        "additional_ips": network.additional_ips.iter().map(|ip| &ip.ip).collect::<Vec<_>>(),
        "handler": status.runtime_handler,
        "labels": status.labels,
        "annotations": status.annotations,
        "containers": reply.containers_statuses.iter().map(|one| &one.id).collect::<Vec<_>>(),
        "info": info(&reply.info),
    })
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
    Ok(of_container(&reply.into_inner()))
}

fn of_container(reply: &ContainerStatusResponse) -> Value {
    let status = reply.status.clone().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    json!({
        "kind": "container",
        "id": status.id,
        "name": metadata.name,
        "attempt": metadata.attempt,
        "state": state_word(status.state()),
        "created_at": status.created_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at,
        "created": instant(status.created_at),
        "started": instant(status.started_at),
        "finished": instant(status.finished_at),
        "exit_code": status.exit_code,
        "reason": status.reason,
        "message": status.message,
        "image": status.image.as_ref().map(|image| &image.image),
        "image_id": status.image_id,
        "log_path": status.log_path,
        "labels": status.labels,
        "annotations": status.annotations,
        "info": info(&reply.info),
    })
}

async fn image_value(client: &Client, text: &str) -> anyhow::Result<Value> {
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
    let image = reply.image.as_ref().ok_or_else(|| nothing(text))?;
    let mut value = of_image(image, &reply.info);
    match tree::details(client, text).await {
        Ok(details) => add_details(&mut value, &details),
        // Another runtime has no more to say.
        Err(error) if error.kind() == Kind::Unimplemented => {}
        Err(error) => return Err(error.into()),
    }
    Ok(value)
}

fn of_image(image: &Image, about: &BTreeMap<String, String>) -> Value {
    json!({
        "kind": "image",
        "id": image.id,
        "tags": image.repo_tags,
        "digests": image.repo_digests,
        "size": image.size,
        "user": image.username,
        "uid": image.uid.as_ref().map(|uid| uid.value),
        "pinned": image.pinned,
        "info": info(about),
    })
}

/// Manifest, configuration, history, and where each byte came from.
fn add_details(value: &mut Value, details: &ImageDetailsResponse) {
    let document = |document: &ImageDocument| -> Value {
        serde_json::from_str(&document.text).unwrap_or_else(|_| Value::String(document.text.clone()))
    };
    let manifests = details.manifests.iter();
    value["manifests"] = manifests
        .map(|found| json!({"digest": found.digest, "document": document(found)}))
        .collect();
    let config = details.config.as_ref().map(document).unwrap_or_default();
    value["history"] = config["history"].clone();
    value["config"] = config;
    let blobs = details.blobs.iter();
    value["blobs"] = blobs
        .map(|blob| {
            json!({
                "what": blob.what,
                "digest": blob.digest,
                "size": blob.size,
                "from": blob.origin,
                "came_at": blob.came_at,
                "came": if blob.came_at > 0 { instant(blob.came_at) } else { String::new() },
            })
        })
        .collect();
    let layers = details.layers.iter();
    value["layers"] = layers
        .map(|layer| json!({"id": layer.id, "bytes": layer.bytes, "inodes": layer.inodes}))
        .collect();
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

#[cfg(test)]
mod tests {
    use coracle_proto::cri::{
        ContainerMetadata, ContainerState, ContainerStatus, PodIp, PodSandboxMetadata,
        PodSandboxNetworkStatus, PodSandboxStatus,
    };

    use super::*;
    use crate::terminal::forms::{NOW, SECOND, uncut_forms};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn a_pod_in_every_form() {
        let reply = PodSandboxStatusResponse {
            status: Some(PodSandboxStatus {
                id: "a".repeat(64),
                metadata: Some(PodSandboxMetadata {
                    name: "web".to_owned(),
                    namespace: "shop".to_owned(),
                    uid: "uid-1".to_owned(),
                    attempt: 1,
                }),
                created_at: NOW - 90 * SECOND,
                network: Some(PodSandboxNetworkStatus {
                    ip: "10.88.0.7".to_owned(),
                    additional_ips: vec![PodIp {
                        ip: "fd00::7".to_owned(),
                    }],
                }),
                labels: map(&[("app", "web"), ("evil", "\u{1b}[31m")]),
                ..PodSandboxStatus::default()
            }),
            info: map(&[("shim", "{\"pid\":7}"), ("words", "no JSON")]),
            ..PodSandboxStatusResponse::default()
        };
        insta::assert_snapshot!(uncut_forms(|screen| tell(
            "pod/shop/web",
            &of_pod(&reply),
            screen
        )));
    }

    #[test]
    fn a_container_in_every_form() {
        let reply = ContainerStatusResponse {
            status: Some(ContainerStatus {
                id: "b".repeat(64),
                metadata: Some(ContainerMetadata {
                    name: "nginx".to_owned(),
                    attempt: 2,
                }),
                state: ContainerState::ContainerExited.into(),
                created_at: NOW - 90 * SECOND,
                started_at: NOW - 89 * SECOND,
                finished_at: NOW - SECOND,
                exit_code: 137,
                reason: "OOMKilled".to_owned(),
                image_id: format!("sha256:{}", "c".repeat(64)),
                log_path: "/var/log/pods/shop_web_uid-1/nginx/2.log".to_owned(),
                ..ContainerStatus::default()
            }),
            info: BTreeMap::new(),
        };
        insta::assert_snapshot!(uncut_forms(|screen| {
            tell("container/shop/web/nginx", &of_container(&reply), screen)
        }));
    }

    #[test]
    fn an_image_in_every_form() {
        let image = Image {
            id: format!("sha256:{}", "c".repeat(64)),
            repo_tags: vec!["docker.io/library/nginx:1.27".to_owned()],
            size: 187 << 20,
            username: "nginx".to_owned(),
            ..Image::default()
        };
        let value = of_image(&image, &map(&[("config", "{\"os\":\"linux\"}")]));
        insta::assert_snapshot!(uncut_forms(|screen| tell(
            "image/docker.io/library/nginx:1.27",
            &value,
            screen
        )));
    }
}
