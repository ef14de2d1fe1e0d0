//! The front of the crate: every operation on pod networks.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_types::PodSandboxId;
use ipnet::IpNet;
use tokio::task::{AbortHandle, spawn_blocking};

use crate::cni::directory::follow;
use crate::node::{Node, Programs};
use crate::{
    Attachment, Error, InterfaceCounters, NetworkNotReady, NetworkObject, NetworksConfig, PodNetwork,
    counters, netns,
};

/// The node's pod networks.
///
/// An operation that was begun runs to its end even when its caller goes away; operations on one
/// pod wait for each other.
#[derive(Debug, Clone)]
pub struct Networks {
    node: Arc<Node>,
    _tasks: Arc<Tasks>,
}

/// Tasks that end with the last handle.
#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Networks {
    /// Reads the configuration and what earlier runs left, and begins to follow changes.
    ///
    /// # Errors
    /// When the state directories cannot be made or read.
    pub async fn start(config: NetworksConfig) -> Result<Self, Error> {
        let conf_dir = config.conf_dir.clone();
        let node = Arc::new(blocking("starting the network", move || Node::start(config)).await?);
        let worker = tokio::spawn({
            let node = node.clone();
            async move { node.doomed.work().await }
        });
        let follower = tokio::spawn({
            let node = node.clone();
            follow(conf_dir, move || node.reload())
        });
        let tasks = Tasks(vec![worker.abort_handle(), follower.abort_handle()]);
        Ok(Self {
            node,
            _tasks: Arc::new(tasks),
        })
    }

    /// Where plugins' programs are looked for from now on, and how long one run of theirs may take.
    pub fn set_programs(&self, dirs: Vec<PathBuf>, deadline: Duration) {
        self.node.set_programs(Programs { dirs, deadline });
    }

    /// Where the pod's network namespace is (to be) pinned.
    #[must_use]
    pub fn netns_path(&self, pod: &PodSandboxId) -> PathBuf {
        self.node.netns_path(pod)
    }

    /// Makes the pod's network namespace with `lo` up, owned by the user namespace `owner` or the host's.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left behind.
    pub async fn create_netns(&self, pod: &PodSandboxId, owner: Option<OwnedFd>) -> Result<PathBuf, Error> {
        let path = self.node.netns_path(pod);
        blocking("making a network namespace", move || {
            netns::create(&path, owner.as_ref())?;
            Ok(path)
        })
        .await
    }

    /// Sets `lo` up in the pod's network namespace, which another process has made and pinned.
    ///
    /// # Errors
    /// When it is not there or the kernel refuses.
    pub async fn set_up_loopback(&self, pod: &PodSandboxId) -> Result<(), Error> {
        let path = self.node.netns_path(pod);
        blocking("setting up a network namespace", move || {
            netns::set_up_loopback(&path)
        })
        .await
    }

    /// Unpins the pod's network namespace; one that is gone is no error.
    ///
    /// # Errors
    /// When it cannot be unmounted or its file not be removed.
    pub async fn remove_netns(&self, pod: &PodSandboxId) -> Result<(), Error> {
        let path = self.node.netns_path(pod);
        blocking("removing a network namespace", move || netns::remove(&path)).await
    }

    /// Attaches the pod to the configured network. What was done is undone when a part fails.
    ///
    /// # Errors
    /// When there is no network, a host port is another pod's, or a plugin fails.
    pub async fn attach(&self, pod: PodNetwork) -> Result<Attachment, Error> {
        let node = self.node.clone();
        blocking("attaching a pod", move || node.attach(pod)).await
    }

    /// Takes the pod from its network: addresses and rules are free when this returns, its
    /// interface is mute and goes a little later (see [`settle`](Self::settle)). Idempotent; the
    /// namespace and the record of the attachment may be gone.
    ///
    /// # Errors
    /// The first failure of a plugin, after all were tried; a further call tries again.
    pub async fn detach(&self, pod: PodNetwork) -> Result<(), Error> {
        let node = self.node.clone();
        blocking("detaching a pod", move || node.detach(&pod)).await
    }

    /// What the pod got when it was attached, also across a restart.
    #[must_use]
    pub fn attachment(&self, pod: &PodSandboxId) -> Option<Attachment> {
        self.node.attachment(pod)
    }

    /// What the interfaces of each pod's namespace carried, `lo` left out, in the order asked; `None` for a
    /// pod whose namespace is not there. One short-lived thread reads all of them.
    ///
    /// # Errors
    /// When no thread can be had.
    pub async fn counters(
        &self,
        pods: &[PodSandboxId],
    ) -> Result<Vec<Option<Vec<InterfaceCounters>>>, Error> {
        if pods.is_empty() {
            return Ok(Vec::new());
        }
        let pins: Vec<_> = pods.iter().map(|pod| self.node.netns_path(pod)).collect();
        blocking("reading counters", move || {
            let read = counters::of_namespaces(&pins).map_err(|_| Error::Lost {
                operation: "reading counters",
            })?;
            Ok(read.into_iter().map(Result::ok).collect())
        })
        .await
    }

    /// Whether the attachment is still as it was made (CNI CHECK). Passes where the network's
    /// version (before 0.4.0) or `disableCheck` rule it out.
    ///
    /// # Errors
    /// Names what is missing.
    pub async fn check(&self, pod: &PodSandboxId) -> Result<(), Error> {
        let (node, pod) = (self.node.clone(), pod.clone());
        blocking("checking a pod's network", move || node.check(&pod)).await
    }

    /// Frees what belongs to attachments and namespaces of pods that are not in `valid`, and tells
    /// plugins (CNI GC, from 1.1.0, unless `disableGC`). Not to be called while a pod that is not in
    /// `valid` is being made.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn gc(&self, valid: &[PodSandboxId]) -> Result<(), Error> {
        let (node, valid) = (self.node.clone(), valid.iter().cloned().collect());
        blocking("collecting attachments", move || node.gc(&valid)).await
    }

    /// Whether pods can be attached now (CRI's NetworkReady). Programs of a network of CNI 1.1 are
    /// asked, with five seconds each.
    ///
    /// # Errors
    /// Says why not.
    pub async fn status(&self) -> Result<(), NetworkNotReady> {
        let node = self.node.clone();
        spawn_blocking(move || node.status())
            .await
            .unwrap_or_else(|error| {
                Err(NetworkNotReady::PluginNotReady {
                    network: String::new(),
                    plugin: String::new(),
                    reason: error.to_string(),
                })
            })
    }

    /// The pod address ranges that the cluster gave this node (CRI UpdateRuntimeConfig): the
    /// capability `ipRanges`, and the default network's subnets. Empty leaves things as configured.
    ///
    /// # Errors
    /// When the default network cannot have these subnets.
    pub fn set_pod_cidrs(&self, cidrs: Vec<IpNet>) -> Result<(), Error> {
        self.node.set_pod_cidrs(cidrs)
    }

    /// What [`create_netns`](Self::create_netns) and [`attach`](Self::attach) will make for this
    /// pod, for the ledger. Of plugins' programs only they know what they make.
    #[must_use]
    pub fn intents(&self, pod: &PodNetwork) -> Vec<NetworkObject> {
        self.node.intents(pod)
    }

    /// What there is of this instance's pods now, for an audit: marked links, pinned namespaces and
    /// records as they are found, port maps as they are known. Links of detached pods are listed
    /// until they are gone (see [`settle`](Self::settle)).
    ///
    /// # Errors
    /// When links or directories cannot be listed.
    pub async fn survey(&self) -> Result<Vec<(PodSandboxId, NetworkObject)>, Error> {
        let node = self.node.clone();
        blocking("surveying pods' networks", move || node.survey()).await
    }

    /// Returns when every interface of detached pods is gone.
    pub async fn settle(&self) {
        self.node.doomed.settled().await;
    }

    /// Removes what the instance owns beside its pods: the default network's bridge and the nft
    /// table. Both come back when the next pod needs them.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub async fn remove_instance_objects(&self) -> Result<(), Error> {
        let node = self.node.clone();
        blocking("removing the instance's network", move || {
            node.remove_instance_objects()
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // What is logged there is about the operation that waits for it.
    let span = tracing::Span::current();
    spawn_blocking(move || span.in_scope(work))
        .await
        .unwrap_or(Err(Error::Lost { operation }))
}
