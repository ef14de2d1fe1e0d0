//! The bed that a test lies in: a node, a registry with busybox, a daemon, and a census to compare with.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_testkit::census::Census;
use coracle_testkit::cni;
use coracle_testkit::cri::{Container, ContainerSpec, Pod, PodSpec, Runtime};
use coracle_testkit::image::{Image, debian};
use coracle_testkit::node::{Daemon, DaemonOptions, Node};
use coracle_testkit::registry::{Distribution, mirror};

/// The registry's name in references; `hosts.toml` leads it to the node's loopback.
pub const HOST: &str = "registry.test";

/// How a bed is made.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// How the daemon is started.
    pub daemon: DaemonOptions,
    /// A subnet for a CNI configuration; without one the daemon makes its default network.
    pub subnet: Option<&'static str>,
}

/// A node with all that a test needs.
#[derive(Debug)]
pub struct Bed {
    /// The daemon, to be killed and started again.
    pub daemon: Daemon,
    /// Its CRI socket.
    pub runtime: Runtime,
    /// The registry, with whatever the test pushes.
    pub registry: Distribution,
    /// busybox, pulled.
    pub busybox: String,
    node: Node,
    before: Census,
    restarted: bool,
}

impl Bed {
    /// A bed as most tests want it.
    ///
    /// # Errors
    /// When something around the daemon, or the daemon's first pod, fails.
    pub async fn make() -> Result<Self> {
        Self::planned(Plan {
            subnet: Some("10.90.0.0/16"),
            ..Plan::default()
        })
        .await
    }

    /// A bed by plan. One pod has come and gone in it, so that what the daemon makes once is in the
    /// census.
    ///
    /// # Errors
    /// As [`Bed::make`].
    pub async fn planned(plan: Plan) -> Result<Self> {
        Self::in_node(Node::start()?, plan).await
    }

    /// A bed whose images, layers and records lie on a disk of their own, of so many bytes.
    ///
    /// # Errors
    /// As [`Bed::make`].
    pub async fn on_disk_of(bytes: u64, mut plan: Plan) -> Result<Self> {
        // It is in memory, where no layer can be an image: whatever form all other nodes are told to take.
        let form = ("CORACLE_IMAGE_SNAPSHOTTER".to_owned(), "auto".to_owned());
        plan.daemon.environment.push(form);
        let node = Node::start()?;
        let root = node.root().display().to_string();
        let size = format!("mode=700,size={bytes}");
        node.run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &root])?;
        Self::in_node(node, plan).await
    }

    async fn in_node(node: Node, plan: Plan) -> Result<Self> {
        if let Some(subnet) = plan.subnet {
            cni::bridge(&node, subnet)?;
        }
        let registry = Distribution::start(&node).await?;
        mirror(&node, HOST, &registry.authority())?;
        registry.push(&debian::busybox()?, "busybox", "1").await?;
        let daemon = node.daemon_with(plan.daemon)?;
        let runtime = Runtime::of(&daemon).await?;
        runtime.ready().await?;
        let busybox = format!("{HOST}/busybox:1");
        first_pod(&runtime, &busybox).await?;
        let before = Census::quiet(&node)?;
        Ok(Self {
            daemon,
            runtime,
            registry,
            busybox,
            node,
            before,
            restarted: false,
        })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The census that was taken before the test began.
    #[must_use]
    pub fn before(&self) -> &Census {
        &self.before
    }

    /// Pushes an image; gives the reference by which the daemon reaches it.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<String> {
        self.registry.push(image, repository, tag).await?;
        Ok(format!("{HOST}/{repository}:{tag}"))
    }

    /// Pushes an image and has it pulled.
    ///
    /// # Errors
    /// When the registry or the daemon refuses.
    pub async fn pull(&self, image: &Image, repository: &str) -> Result<String> {
        let reference = self.push(image, repository, "1").await?;
        self.runtime
            .pull(&reference)
            .await
            .with_context(|| format!("cannot pull {reference}"))?;
        Ok(reference)
    }

    /// Runs a pod with one idle busybox container.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub async fn idle_pod(&self, name: &str) -> Result<(Pod, Container)> {
        let pod = self.runtime.run_pod(PodSpec::new(name)).await?;
        let container = pod.run(&ContainerSpec::idle(name, &self.busybox)).await?;
        Ok((pod, container))
    }

    /// Runs a script in a fresh pod's busybox container to its end; gives its exit code and its log.
    ///
    /// # Errors
    /// When the daemon refuses or the container does not end.
    pub async fn script(&self, script: &str) -> Result<(i32, String)> {
        let spec = ContainerSpec::script("script", &self.busybox, script);
        self.to_its_end(&spec).await
    }

    /// Runs one container in a fresh pod to its end; gives its exit code and its log.
    ///
    /// # Errors
    /// When the daemon refuses or the container does not end.
    pub async fn to_its_end(&self, spec: &ContainerSpec) -> Result<(i32, String)> {
        let pod = self.runtime.run_pod(PodSpec::new("to-its-end")).await?;
        let outcome = async {
            let container = pod.run(spec).await?;
            let status = container.exited().await?;
            let lines = container.log_lines()?;
            let text: Vec<String> = lines.into_iter().map(|(_, _, text)| text).collect();
            anyhow::Ok((status.exit_code, text.join("\n")))
        }
        .await;
        pod.remove().await?;
        outcome
    }

    /// Connects anew, after the daemon was started again.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.restarted = true;
        self.runtime = Runtime::of(&self.daemon).await?;
        self.runtime.ready().await
    }

    /// Ends the test: no pod and no container is left, and the census is as it was before.
    ///
    /// # Errors
    /// When something is left.
    pub async fn leave(self) -> Result<()> {
        let pods = self.runtime.list_pods().await?;
        anyhow::ensure!(pods.is_empty(), "pods are left: {pods:?}");
        let containers = self.runtime.list_containers().await?;
        anyhow::ensure!(containers.is_empty(), "containers are left: {containers:?}");
        if self.restarted {
            // What a daemon makes once in its life, the census before knows of its predecessor.
            first_pod(&self.runtime, &self.busybox).await?;
        }
        // A unary call leaves nothing behind it, but its connection's tasks want a moment.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let after = Census::settled(&self.node, &self.before)?;
        let diff = self.before.diff(&after);
        anyhow::ensure!(
            diff.is_empty(),
            "the census differs:\n{diff}\n{}",
            self.daemon.log_end()
        );
        Ok(())
    }
}

/// Pulls busybox and runs a pod of it with a published port to its end.
async fn first_pod(runtime: &Runtime, busybox: &str) -> Result<()> {
    runtime.pull(busybox).await.context("cannot pull busybox")?;
    let pod = runtime
        .run_pod(PodSpec::new("first").publish(12999, 80))
        .await
        .context("the first pod")?;
    let container = pod.run(&ContainerSpec::new("first", busybox, &["true"])).await?;
    container.exited().await?;
    pod.remove().await.context("the first pod's removal")
}
