//! Driving a runtime through its CRI socket as the kubelet would, with few words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::admin::admin_client::AdminClient;
use coracle_proto::client::Client;
use coracle_proto::cri;
use coracle_proto::cri::image_service_client::ImageServiceClient;
use coracle_proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::node::Daemon;

mod container;
mod pod;

pub use container::{Container, ContainerSpec, Output};
pub use pod::{Pod, PodSpec};

/// A runtime that is driven; clones share the connection.
#[derive(Debug, Clone)]
pub struct Runtime {
    client: Client,
    logs: PathBuf,
}

impl Runtime {
    /// Connects to any CRI socket; logs of pods go to a directory of their own below `logs`, which the
    /// runtime must reach by the same path.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(socket: &Path, logs: &Path) -> Result<Self> {
        let client = Client::connect(socket).await?;
        Ok(Self {
            client,
            logs: logs.to_owned(),
        })
    }

    /// Connects to a node's daemon.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn of(daemon: &Daemon) -> Result<Self> {
        Self::connect(&daemon.socket(), &daemon.node().directory().join("logs")).await
    }

    /// Calls about pods and containers that have no short form here.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.client.runtime()
    }

    /// Calls about images that have no short form here.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.client.images()
    }

    /// What CRI has no word for.
    #[must_use]
    pub fn admin(&self) -> AdminClient<Channel> {
        self.client.admin()
    }

    /// Pulls an image; gives its reference as CRI's `image_ref`.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_as(image, None).await
    }

    /// As [`Runtime::pull`], with a login.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn pull_as(&self, image: &str, auth: Option<cri::AuthConfig>) -> Result<String, Status> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(image)),
            auth,
            sandbox_config: None,
        };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    /// What the runtime knows of an image; None when it has none of that name.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn image(&self, image: &str) -> Result<Option<cri::Image>, Status> {
        let request = cri::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        Ok(self.images().image_status(request).await?.into_inner().image)
    }

    /// All images.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn list_images(&self) -> Result<Vec<cri::Image>, Status> {
        Ok(self
            .images()
            .list_images(cri::ListImagesRequest { filter: None })
            .await?
            .into_inner()
            .images)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images().remove_image(request).await?;
        Ok(())
    }

    /// Runs a pod sandbox.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn run_pod(&self, spec: PodSpec) -> Result<Pod, Status> {
        let config = spec.config(&self.logs);
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: spec.handler,
        };
        let id = self
            .runtime()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        Ok(Pod::new(self.clone(), id, config))
    }

    /// All pod sandboxes.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn list_pods(&self) -> Result<Vec<cri::PodSandbox>, Status> {
        let request = cri::ListPodSandboxRequest { filter: None };
        Ok(self.runtime().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// All containers.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn list_containers(&self) -> Result<Vec<cri::Container>, Status> {
        let request = cri::ListContainersRequest { filter: None };
        Ok(self
            .runtime()
            .list_containers(request)
            .await?
            .into_inner()
            .containers)
    }

    /// Waits until network and runtime say that they are ready.
    ///
    /// # Errors
    /// When they do not within 10 s; the conditions are told.
    pub async fn ready(&self) -> Result<()> {
        let mut last = Vec::new();
        for _ in 0..200 {
            let status = self
                .runtime()
                .status(cri::StatusRequest { verbose: false })
                .await?
                .into_inner();
            last = status.status.context("Status has no status")?.conditions;
            let met = |kind: &str| {
                last.iter()
                    .any(|condition| condition.r#type == kind && condition.status)
            };
            if met("RuntimeReady") && met("NetworkReady") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the runtime is not ready: {last:?}")
    }
}

/// An image named as a user would.
#[must_use]
pub fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}
