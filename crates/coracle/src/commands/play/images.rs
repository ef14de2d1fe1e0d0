//! The images of a pod, on the node before anything is made of them.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use coracle_manifest::{Container, Pod, PullPolicy, VolumeSource};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{ImageSpec, ImageStatusRequest, PullImageRequest};

use crate::commands::images;
use crate::terminal::Screen;

/// What of an image a container's configuration needs.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// By which it is named from now on.
    pub(super) id: String,
    /// Its user, when it is a number.
    pub(super) uid: Option<i64>,
    /// Its user, when it is a name.
    pub(super) username: String,
}

impl Image {
    /// Refuses an image that would run as root.
    ///
    /// # Errors
    /// When its user is root, or a name of which nobody knows whose it is.
    pub(super) fn must_not_be_root(&self, reference: &str) -> anyhow::Result<()> {
        match (self.uid, self.username.as_str()) {
            (Some(0), _) | (None, "") => {
                bail!("runAsNonRoot: true, but {reference} runs as root: give runAsUser")
            }
            (None, name) => bail!(
                "runAsNonRoot: true, but {reference} names its user {name:?}, which may be root: give runAsUser with its number"
            ),
            (Some(_), _) => Ok(()),
        }
    }
}

/// Has all images of a pod on the node; gives what is known of them by their references.
pub(super) async fn ensure(
    client: &Client,
    pod: &Pod,
    screen: &Screen,
) -> anyhow::Result<BTreeMap<String, Image>> {
    let mut wanted: BTreeMap<String, PullPolicy> = BTreeMap::new();
    for container in pod.all_containers() {
        let policy = wanted.entry(container.image.clone()).or_insert(container.pull);
        if container.pull == PullPolicy::Always {
            *policy = PullPolicy::Always;
        }
    }
    for volume in &pod.volumes {
        if let VolumeSource::Image { reference, pull } = &volume.source {
            wanted
                .entry(reference.clone())
                .or_insert(pull.unwrap_or(PullPolicy::IfNotPresent));
        }
    }
    let mut found = BTreeMap::new();
    for (reference, policy) in wanted {
        match policy {
            PullPolicy::Always => images::fetch(client, &reference, screen).await?,
            PullPolicy::IfNotPresent => images::ensure(client, &reference, screen).await?,
            PullPolicy::Never => {}
        }
        let image = status(client, &reference).await?.with_context(|| {
            format!("{reference} is not on this node, and imagePullPolicy: Never keeps it from being pulled")
        })?;
        found.insert(reference, image);
    }
    Ok(found)
}

/// The image of a container that starts again; one that was removed meanwhile is pulled where its policy has it so.
pub(super) async fn again(client: &Client, container: &Container) -> anyhow::Result<Image> {
    let reference = &container.image;
    if let Some(image) = status(client, reference).await? {
        return Ok(image);
    }
    if container.pull == PullPolicy::Never {
        bail!(
            "{reference} is not on this node any more, and imagePullPolicy: Never keeps it from being pulled"
        );
    }
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: reference.clone(),
            ..ImageSpec::default()
        }),
        ..PullImageRequest::default()
    };
    let pulled = client.images().pull_image(request).await;
    pulled.map_err(ClientError::of("PullImage"))?;
    let image = status(client, reference).await?;
    image.with_context(|| format!("{reference} is not on this node, although it was pulled"))
}

async fn status(client: &Client, reference: &str) -> anyhow::Result<Option<Image>> {
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image: reference.to_owned(),
            ..ImageSpec::default()
        }),
        verbose: false,
    };
    let reply = client
        .images()
        .image_status(request)
        .await
        .map_err(ClientError::of("ImageStatus"))?;
    Ok(reply.into_inner().image.map(|image| Image {
        id: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }))
}
