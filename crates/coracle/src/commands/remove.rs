//! `stop` and `rm`.

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ImageSpec, PodSandbox, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
    StopContainerRequest, StopPodSandboxRequest,
};

use super::find::{self, Object, Objects};
use super::run::LOG_DIRECTORY;
use super::{images, inspect, play};
use crate::cli::{ObjectArgs, StopArgs};
use crate::terminal::{self, Screen, Status, Trouble};

/// Stops pods and containers.
pub(crate) async fn stop(client: &Client, args: &StopArgs, screen: &Screen) -> anyhow::Result<()> {
    for text in &args.objects {
        // Looked up anew for each: the one before may have taken it along.
        let outcome = match Objects::load(client).await?.object(text)? {
            Object::Pod(pod) => stop_pod(client, &pod, i64::from(args.timeout)).await,
            Object::Container(container) => {
                let request = StopContainerRequest {
                    container_id: container.id,
                    timeout: i64::from(args.timeout),
                };
                let reply = client.runtime().stop_container(request).await;
                reply
                    .map(|_| ())
                    .map_err(|status| ClientError::of("StopContainer")(status).into())
            }
        };
        outcome.map_err(|error| error.context(Cannot("stop", text).trouble()))?;
        screen.done("stopped", text)?;
    }
    Ok(())
}

/// What could not be done to what.
struct Cannot<'a>(&'static str, &'a str);

impl Cannot<'_> {
    fn trouble(&self) -> Trouble {
        Trouble::new(format!("cannot {} {}", self.0, self.1))
            .next("`coracle ops` shows what is under way; `coracle inspect` what is known of the object")
    }
}

/// The containers first, with patience: StopPodSandbox alone kills at once.
async fn stop_pod(client: &Client, pod: &PodSandbox, timeout: i64) -> anyhow::Result<()> {
    // Whoever watches a pod of a manifest would start its containers again.
    play::storage::mark_stopping(uid(pod));
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

/// Removes pods, containers and images. A pod or container goes before an image of that name.
pub(crate) async fn remove(client: &Client, args: &ObjectArgs, screen: &Screen) -> anyhow::Result<()> {
    for text in &args.objects {
        let outcome = match Objects::load(client).await?.object(text) {
            Ok(Object::Pod(pod)) => remove_pod(client, &pod).await,
            Ok(Object::Container(container)) => {
                let request = RemoveContainerRequest {
                    container_id: container.id,
                };
                let reply = client.runtime().remove_container(request).await;
                reply
                    .map(|_| ())
                    .map_err(|status| ClientError::of("RemoveContainer")(status).into())
            }
            Err(trouble) if trouble.is(Status::NotFound) => remove_image(client, text).await,
            Err(trouble) => return Err(trouble.into()),
        };
        outcome.map_err(|error| match error.downcast_ref::<Trouble>() {
            Some(_) => error,
            None => error.context(Cannot("remove", text).trouble()),
        })?;
        screen.done("removed", text)?;
    }
    Ok(())
}

/// Removes the image that `text` means.
async fn remove_image(client: &Client, text: &str) -> anyhow::Result<()> {
    let Some(id) = images::meant(client, text).await? else {
        return Err(inspect::nothing(text).into());
    };
    // A name takes its own tag away, an id the image with all its tags.
    let name = text.strip_prefix("image/").unwrap_or(text);
    let digits = name.trim_start_matches("sha256:");
    let by_id = id.trim_start_matches("sha256:").starts_with(digits);
    let request = RemoveImageRequest {
        image: Some(ImageSpec {
            image: if by_id { id } else { name.to_owned() },
            ..ImageSpec::default()
        }),
    };
    let reply = client.images().remove_image(request).await;
    reply.map_err(ClientError::of("RemoveImage"))?;
    Ok(())
}

fn uid(pod: &PodSandbox) -> &str {
    pod.metadata.as_ref().map_or("", |metadata| metadata.uid.as_str())
}

/// Removes a pod, the volumes of one that a manifest described, and the log directory if `coracle run` made it.
pub(crate) async fn remove_pod(client: &Client, pod: &PodSandbox) -> anyhow::Result<()> {
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    client
        .runtime()
        .remove_pod_sandbox(request)
        .await
        .map_err(ClientError::of("RemovePodSandbox"))?;
    play::storage::remove_of(uid(pod))?;
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
