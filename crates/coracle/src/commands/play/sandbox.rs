//! The pod sandbox of a manifest, with all that its containers share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use coracle_manifest::{Facts, Pod};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    PodSandbox, PodSandboxConfig, PodSandboxState, PodSandboxStatusRequest, RunPodSandboxRequest,
    StopPodSandboxRequest,
};
use coracle_types::{Kind, Kinded};

use super::images::Image;
use super::output::Output;
use super::storage::{self, Storage};
use super::{facts, requests};
use crate::commands::{engine, find, remove};

/// A running sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) client: Client,
    pub(super) pod: Pod,
    pub(super) facts: Facts,
    pub(super) storage: Storage,
    pub(super) images: BTreeMap<String, Image>,
    pub(super) output: Output,
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
    /// The pod's own hosts file; `None` where the node's serves.
    pub(super) hosts: Option<PathBuf>,
}

impl Sandbox {
    /// Makes volumes and runs the sandbox; when something fails, nothing of it stays.
    pub(super) async fn run(
        client: &Client,
        pod: Pod,
        images: BTreeMap<String, Image>,
        output: Output,
    ) -> anyhow::Result<Self> {
        let mut facts = facts::of_node(uid());
        let storage = Storage::make(&facts.uid, client.socket())?;
        let config = requests::pod_config(&pod, &facts);
        let made = async {
            storage.make_volumes(&pod, &facts)?;
            make_logs(&pod, &config)?;
            let request = RunPodSandboxRequest {
                config: Some(config.clone()),
                runtime_handler: pod.runtime_class.clone(),
            };
            let reply = client.runtime().run_pod_sandbox(request).await;
            let id = reply
                .map_err(ClientError::of("RunPodSandbox"))?
                .into_inner()
                .pod_sandbox_id;
            facts.pod_ips = addresses(client, &id, &facts).await?;
            let hosts = hosts(&pod, &facts).map(|text| storage.hosts(&text)).transpose()?;
            anyhow::Ok((id, hosts))
        }
        .await;
        match made {
            Ok((id, hosts)) => Ok(Self {
                client: client.clone(),
                pod,
                facts,
                storage,
                images,
                output,
                id,
                config,
                hosts,
            }),
            Err(error) => {
                let _ = remove_by_uid(client, &facts.uid).await;
                let _ = std::fs::remove_dir_all(&config.log_directory);
                engine::report(storage.remove());
                Err(error)
            }
        }
    }

    /// Whether somebody else has stopped or removed it.
    pub(super) async fn is_gone(&self) -> bool {
        if self.storage.is_stopping() {
            return true;
        }
        match status(&self.client, &self.id).await {
            Ok(status) => status.state() != PodSandboxState::SandboxReady,
            Err(error) => error.kind() == Kind::NotFound,
        }
    }

    /// Stops it, and removes it with all that it had unless it is to be kept.
    pub(super) async fn end(self, keep: bool) -> anyhow::Result<()> {
        if keep {
            let request = StopPodSandboxRequest {
                pod_sandbox_id: self.id.clone(),
            };
            let stopped = self.client.runtime().stop_pod_sandbox(request).await;
            stopped.map_err(ClientError::of("StopPodSandbox"))?;
            return Ok(());
        }
        remove_by_uid(&self.client, &self.facts.uid).await?;
        // Somebody else may have removed the sandbox and left the logs.
        let _ = std::fs::remove_dir_all(&self.config.log_directory);
        self.storage.remove()
    }
}

/// A uid as Kubernetes makes them: a random UUID (RFC 9562, version 4).
fn uid() -> String {
    let random = coracle_types::PodSandboxId::generate();
    let digits = random.as_str();
    format!(
        "{}-{}-4{}-a{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..15],
        &digits[15..18],
        &digits[18..30]
    )
}

/// A pod of this name is in the way, or is removed if that was asked for.
pub(super) async fn make_way(client: &Client, pod: &Pod, replace: bool) -> anyhow::Result<()> {
    let all = find::pods(client).await?;
    let uid_of = |pod: &PodSandbox| {
        pod.metadata
            .as_ref()
            .map(|metadata| metadata.uid.clone())
            .unwrap_or_default()
    };
    let uids: Vec<String> = all.iter().map(uid_of).collect();
    storage::sweep(client.socket(), &uids);
    for other in &all {
        let metadata = other.metadata.clone().unwrap_or_default();
        if (&metadata.name, &metadata.namespace) != (&pod.name, &pod.namespace) {
            continue;
        }
        if !replace {
            bail!(
                "a pod {}/{} is there already ({}): remove it with `coracle rm {}`, or give --replace",
                pod.namespace,
                pod.name,
                &other.id[..other.id.len().min(13)],
                pod.name
            );
        }
        remove::remove_pod(client, other)
            .await
            .with_context(|| format!("replace pod {}", pod.name))?;
    }
    Ok(())
}

/// The directories of containers' logs, which CRI expects to be there.
fn make_logs(pod: &Pod, config: &PodSandboxConfig) -> anyhow::Result<()> {
    for container in pod.all_containers() {
        let path = format!("{}/{}", config.log_directory, container.name);
        std::fs::create_dir_all(&path).with_context(|| format!("make the log directory {path}"))?;
    }
    Ok(())
}

async fn remove_by_uid(client: &Client, uid: &str) -> anyhow::Result<()> {
    let own = |pod: &PodSandbox| pod.metadata.as_ref().is_some_and(|metadata| metadata.uid == uid);
    for pod in find::pods(client).await?.into_iter().filter(own) {
        remove::remove_pod(client, &pod).await?;
    }
    Ok(())
}

async fn status(client: &Client, id: &str) -> Result<coracle_proto::cri::PodSandboxStatus, ClientError> {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: false,
    };
    let reply = client.runtime().pod_sandbox_status(request).await;
    let reply = reply.map_err(ClientError::of("PodSandboxStatus"))?;
    Ok(reply.into_inner().status.unwrap_or_default())
}

/// The pod's addresses; the node's when it has none of its own.
async fn addresses(client: &Client, id: &str, facts: &Facts) -> anyhow::Result<Vec<String>> {
    let network = status(client, id).await?.network.unwrap_or_default();
    if network.ip.is_empty() {
        return Ok(vec![facts.host_ip.clone()]);
    }
    let more = network.additional_ips.into_iter().map(|more| more.ip);
    Ok(std::iter::once(network.ip).chain(more).collect())
}

/// The pod's hosts file; with the node's network the node's own, with the aliases behind.
fn hosts(pod: &Pod, facts: &Facts) -> Option<String> {
    if !pod.sharing.host_network {
        return Some(pod.hosts_file(facts));
    }
    let aliases = pod.alias_lines();
    let node = || std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    (!aliases.is_empty()).then(|| node() + &aliases)
}
