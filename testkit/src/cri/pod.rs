//! Pod sandboxes: what is asked for, and the handle of a running one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use coracle_proto::cri;
use tonic::Status;

use super::{Container, ContainerSpec, Runtime};

/// Pods of one process never share a uid.
static MADE: AtomicU64 = AtomicU64::new(0);

/// A pod to run: by default with its own network, IPC and, as the kubelet asks, PID namespaces a
/// container each.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// The RuntimeClass's handler; empty for the default one.
    pub handler: String,
    config: cri::PodSandboxConfig,
}

impl PodSpec {
    /// A pod of this name in namespace `default`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let uid = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let namespace_options = cri::NamespaceOption {
            network: cri::NamespaceMode::Pod.into(),
            pid: cri::NamespaceMode::Container.into(),
            ipc: cri::NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespace_options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self {
            handler: String::new(),
            config,
        }
    }

    /// One PID namespace for all containers of the pod, CRI's zero value.
    #[must_use]
    pub fn shared_pids(self) -> Self {
        self.namespaces(|options| options.pid = cri::NamespaceMode::Pod.into())
    }

    /// The node's network.
    #[must_use]
    pub fn host_network(self) -> Self {
        self.namespaces(|options| options.network = cri::NamespaceMode::Node.into())
    }

    /// A port of the node that leads to one of the pod.
    #[must_use]
    pub fn publish(self, host_port: i32, container_port: i32) -> Self {
        let mapping = cri::PortMapping {
            host_port,
            container_port,
            ..Default::default()
        };
        self.with(|config| config.port_mappings.push(mapping))
    }

    /// A user namespace of the pod's own: its ids from 0 on are those of the node from `host_id` on.
    #[must_use]
    pub fn user_namespace(self, host_id: u32) -> Self {
        let mapping = || {
            vec![cri::IdMapping {
                host_id,
                container_id: 0,
                length: 65536,
            }]
        };
        self.namespaces(|options| {
            options.userns_options = Some(cri::UserNamespace {
                mode: cri::NamespaceMode::Pod.into(),
                uids: mapping(),
                gids: mapping(),
            });
        })
    }

    /// Changes the namespaces.
    #[must_use]
    pub fn namespaces(self, change: impl FnOnce(&mut cri::NamespaceOption)) -> Self {
        self.linux(|linux| {
            let security = linux.security_context.get_or_insert_default();
            change(security.namespace_options.get_or_insert_default());
        })
    }

    /// Changes what Linux alone has.
    #[must_use]
    pub fn linux(self, change: impl FnOnce(&mut cri::LinuxPodSandboxConfig)) -> Self {
        self.with(|config| change(config.linux.get_or_insert_default()))
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The request's configuration, with a log directory of the pod's own unless one is given.
    #[must_use]
    pub fn config(&self, logs: &Path) -> cri::PodSandboxConfig {
        let mut config = self.config.clone();
        if config.log_directory.is_empty() {
            let metadata = config.metadata.clone().unwrap_or_default();
            config.log_directory = logs
                .join(format!("{}_{}", metadata.name, metadata.uid))
                .display()
                .to_string();
        }
        config
    }
}

/// A pod sandbox that was run.
#[derive(Debug, Clone)]
pub struct Pod {
    runtime: Runtime,
    id: String,
    config: cri::PodSandboxConfig,
}

impl Pod {
    pub(super) fn new(runtime: Runtime, id: String, config: cri::PodSandboxConfig) -> Self {
        Self { runtime, id, config }
    }

    /// The same pod, driven over another connection (after the daemon was started again).
    #[must_use]
    pub fn through(&self, runtime: &Runtime) -> Self {
        Self {
            runtime: runtime.clone(),
            ..self.clone()
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As it was asked for.
    #[must_use]
    pub fn config(&self) -> &cri::PodSandboxConfig {
        &self.config
    }

    /// Where its containers' logs lie.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        PathBuf::from(&self.config.log_directory)
    }

    /// Its state, addresses and the rest.
    ///
    /// # Errors
    /// What the runtime answers; NotFound too when the answer is empty.
    pub async fn status(&self) -> Result<cri::PodSandboxStatus, Status> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let answer = self
            .runtime
            .runtime()
            .pod_sandbox_status(request)
            .await?
            .into_inner();
        answer
            .status
            .ok_or_else(|| Status::not_found("the answer holds no status"))
    }

    /// Its first address.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn ip(&self) -> Result<String, Status> {
        Ok(self.status().await?.network.unwrap_or_default().ip)
    }

    /// Creates a container in it.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<Container, Status> {
        let config = spec.config().clone();
        let log = self.logs().join(&config.log_path);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self
            .runtime
            .runtime()
            .create_container(request)
            .await?
            .into_inner()
            .container_id;
        Ok(Container::new(self.runtime.clone(), id, log))
    }

    /// Creates a container in it and starts it.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn run(&self, spec: &ContainerSpec) -> Result<Container, Status> {
        let container = self.create(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Stops it and its containers.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn stop(&self) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.runtime.runtime().stop_pod_sandbox(request).await?;
        Ok(())
    }

    /// Stops it and takes it away, with its logs.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn remove(&self) -> Result<(), Status> {
        self.stop().await?;
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.runtime.runtime().remove_pod_sandbox(request).await?;
        // Logs are the client's: a runtime leaves them.
        let _ = std::fs::remove_dir_all(self.logs());
        Ok(())
    }
}
