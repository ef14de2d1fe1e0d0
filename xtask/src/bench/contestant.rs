//! A runtime that is measured: in a node of its own, with the same network and image as the others.

use std::path::PathBuf;

use anyhow::{Context, Result};
use coracle_testkit::cni;
use coracle_testkit::cri::Runtime;
use coracle_testkit::image::debian;
use coracle_testkit::measure::{percentile, rss};
use coracle_testkit::node::{Daemon, Node, Service, by_systemd};
use coracle_testkit::registry::{Distribution, mirror};
use serde_json::{Value, json};

use super::round::{PidMode, Samples};
use crate::peer;

/// The image of the measured pods, from a registry that `hosts.toml` leads to loopback.
pub(super) const IMAGE: &str = "registry.bench/busybox:1";
pub(super) const HOST: &str = "registry.bench";

/// What keeps a runtime's daemon running.
enum Running {
    Coracle(Daemon),
    Containerd(Service),
}

pub(super) struct Contestant {
    pub(super) name: String,
    pub(super) node: Node,
    pub(super) runtime: Runtime,
    running: Running,
    pub(super) registry: Distribution,
}

impl Contestant {
    /// Ours, and the others that are here unless it shall be measured alone.
    pub(super) async fn all(alone: bool) -> Result<Vec<Self>> {
        let mut contestants = vec![Self::coracle().await?];
        if alone {
            println!("Alone, as asked.");
        } else {
            match Self::containerd().await {
                Ok(contestant) => contestants.push(contestant),
                Err(error) => println!("Without containerd: {error:#}"),
            }
        }
        Ok(contestants)
    }

    /// The program of this workspace.
    pub(super) async fn coracle() -> Result<Self> {
        let (node, registry) = ground("10.91.0.0/16").await?;
        let daemon = node.daemon()?;
        let runtime = Runtime::of(&daemon).await?;
        let contestant = Self {
            name: String::new(),
            node,
            runtime,
            running: Running::Coracle(daemon),
            registry,
        };
        contestant.ready().await
    }

    /// containerd with runc, when both and the CNI plugins are on PATH.
    pub(super) async fn containerd() -> Result<Self> {
        let (node, registry) = ground("10.92.0.0/16").await?;
        let service = peer::containerd(&node)?;
        let runtime = Runtime::connect(&node.path(peer::SOCKET), &node.directory().join("logs")).await?;
        let contestant = Self {
            name: String::new(),
            node,
            runtime,
            running: Running::Containerd(service),
            registry,
        };
        contestant.ready().await
    }

    async fn ready(mut self) -> Result<Self> {
        self.runtime.ready().await?;
        for image in [IMAGE, "registry.k8s.io/pause:3.10"] {
            // Only containerd wants the second one, for its pause container.
            if image == IMAGE || matches!(self.running, Running::Containerd(_)) {
                self.runtime
                    .pull(image)
                    .await
                    .with_context(|| format!("{image}: {}", self.log_end()))?;
            }
        }
        let request = coracle_proto::cri::VersionRequest {
            version: "v1".to_owned(),
        };
        let version = self.runtime.runtime().version(request).await?.into_inner();
        self.name = format!("{} {}", version.runtime_name, version.runtime_version);
        Ok(self)
    }

    /// Where it keeps images.
    pub(super) fn storage(&self) -> PathBuf {
        match &self.running {
            Running::Coracle(_) => self.node.root(),
            Running::Containerd(_) => self.node.directory().join(peer::ROOT),
        }
    }

    pub(super) fn log_end(&self) -> String {
        match &self.running {
            Running::Coracle(daemon) => daemon.log_end(),
            Running::Containerd(service) => service.log_end(),
        }
    }

    /// The directory of its daemon in /proc.
    pub(super) fn daemon(&self) -> Result<PathBuf> {
        match &self.running {
            Running::Coracle(daemon) => daemon.proc(),
            Running::Containerd(service) => Ok(service.proc()),
        }
    }

    /// The cgroup that pods get as parent, so that nothing lands outside the node's.
    pub(super) fn cgroup_parent(&self) -> String {
        let instance = self.node.instance();
        if by_systemd() {
            format!("/{instance}.slice/{instance}-bench.slice")
        } else {
            format!("/{instance}/bench")
        }
    }

    pub(super) fn result(&self, mode: PidMode, samples: &Samples, pss_a_pod: f64) -> Result<Value> {
        let times: serde_json::Map<String, Value> = samples
            .times
            .iter()
            .map(|(name, times)| {
                let value = json!({
                    "p50": percentile(times, 0.5),
                    "p90": percentile(times, 0.9),
                    "p99": percentile(times, 0.99),
                });
                ((*name).to_owned(), value)
            })
            .collect();
        Ok(json!({
            "runtime": self.name,
            "pid_mode": format!("{mode:?}"),
            "times": times,
            "cpu_a_start": samples.cpu_a_start(),
            "pss_a_pod": pss_a_pod,
            "daemon_rss": rss(&self.daemon()?)? as f64 / 1024.0,
        }))
    }
}

/// A node with the network, the registry and the images that every runtime gets.
async fn ground(subnet: &str) -> Result<(Node, Distribution)> {
    let node = Node::start()?;
    cni::bridge(&node, subnet)?;
    let registry = Distribution::start(&node).await?;
    let busybox = debian::busybox()?;
    registry.push(&busybox, "busybox", "1").await?;
    registry.push(&debian::pause()?, "pause", "3.10").await?;
    for host in [HOST, "registry.k8s.io"] {
        mirror(&node, host, &registry.authority())?;
    }
    Ok((node, registry))
}
