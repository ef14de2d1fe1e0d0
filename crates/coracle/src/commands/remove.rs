//! `stop` and `rm`.

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ImageSpec, ImageStatusRequest, PodSandbox, RemoveContainerRequest, RemoveImageRequest,
    RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};

use super::find::{self, Object};
use super::run::LOG_DIRECTORY;
use crate::cli::{ObjectArgs, StopArgs};
use crate::terminal;

/// Stops pods and containers.
pub(crate) async fn stop(client: &Client, args: &StopArgs) -> anyhow::Result<()> {
    for text in &args.objects {
        match meant(client, text).await? {
            Object::Pod(pod) => stop_pod(client, &pod, i64::from(args.timeout)).await?,
            Object::Container(container) => {
                let request = StopContainerRequest {
                    container_id: container.id,
                    timeout: i64::from(args.timeout),
                };
                client
                    .runtime()
                    .stop_container(request)
                    .await
                    .map_err(ClientError::of("StopContainer"))?;
            }
        }
        terminal::line(text);
    }
    Ok(())
}

/// A name that `coracle run` gave to a pod and its container means the pod.
async fn meant(client: &Client, text: &str) -> anyhow::Result<Object> {
    let mut named: Vec<_> = find::pods(client)
        .await?
        .into_iter()
        .filter(|pod| find::pod_name(pod) == text)
        .collect();
    if named.len() == 1 {
        return Ok(Object::Pod(named.remove(0)));
    }
    find::object(client, text).await
}

/// The containers first, with patience: StopPodSandbox alone kills at once.
async fn stop_pod(client: &Client, pod: &PodSandbox, timeout: i64) -> anyhow::Result<()> {
    for container in find::containers(client)
        .await?
        .into_iter()
        .filter(|one| one.pod_sandbox_id == pod.id)
    {
        let request = StopContainerRequest {
            container_id: container.id,
            timeout,
        };
        client
            .runtime()
            .stop_container(request)
            .await
            .map_err(ClientError::of("StopContainer"))?;
    }
    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    client
        .runtime()
        .stop_pod_sandbox(request)
        .await
        .map_err(ClientError::of("StopPodSandbox"))?;
    Ok(())
}

/// Removes pods, containers and images.
pub(crate) async fn remove(client: &Client, args: &ObjectArgs) -> anyhow::Result<()> {
    for text in &args.objects {
        if !remove_image(client, text).await? {
            match meant(client, text).await? {
                Object::Pod(pod) => remove_pod(client, &pod).await?,
                Object::Container(container) => {
                    let request = RemoveContainerRequest {
                        container_id: container.id,
                    };
                    client
                        .runtime()
                        .remove_container(request)
                        .await
                        .map_err(ClientError::of("RemoveContainer"))?;
                }
            }
        }
        terminal::line(text);
    }
    Ok(())
}

/// Removes the image that `text` names, if one is meant: a reference with a tag, a digest or a path.
async fn remove_image(client: &Client, text: &str) -> anyhow::Result<bool> {
    if !text.contains(['/', ':', '@']) {
        return Ok(false);
    }
    let image = Some(ImageSpec {
        image: text.to_owned(),
        ..ImageSpec::default()
    });
    let request = ImageStatusRequest {
        image: image.clone(),
        verbose: false,
    };
    let reply = client
        .images()
        .image_status(request)
        .await
        .map_err(ClientError::of("ImageStatus"))?;
    if reply.into_inner().image.is_none() {
        anyhow::bail!("no image is named {text:?}: see `coracle images`");
    }
    let request = RemoveImageRequest { image };
    client
        .images()
        .remove_image(request)
        .await
        .map_err(ClientError::of("RemoveImage"))?;
    Ok(true)
}

/// Removes a pod, and the log directory if `coracle run` made it.
pub(crate) async fn remove_pod(client: &Client, pod: &PodSandbox) -> anyhow::Result<()> {
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    client
        .runtime()
        .remove_pod_sandbox(request)
        .await
        .map_err(ClientError::of("RemovePodSandbox"))?;
    if let Some(logs) = pod.annotations.get(LOG_DIRECTORY) {
        match std::fs::remove_dir_all(logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                terminal::remark(format!("the log directory {logs} stays: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}
