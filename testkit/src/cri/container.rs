//! Containers: what is asked for, and the handle of one that was created.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use tonic::Status;

use super::{Runtime, image_spec};
use crate::wait;

/// What the kubelet asks to be hidden unless a pod says otherwise (its procMount `Default`).
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What the kubelet asks to be read-only.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A container to create.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    config: cri::ContainerConfig,
}

impl ContainerSpec {
    /// A container of this name and image that runs `command` (the image's own when empty); its log is
    /// `<name>.log` in the pod's log directory. Paths of the kernel are masked as the kubelet has it.
    #[must_use]
    pub fn new(name: &str, image: &str, command: &[&str]) -> Self {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(image_spec(image)),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        pid: cri::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    masked_paths: MASKED.map(str::to_owned).to_vec(),
                    readonly_paths: READONLY.map(str::to_owned).to_vec(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { config }
    }

    /// A container that stays until it is told to go, and goes when told, from the moment on at which
    /// its log says `idle`.
    #[must_use]
    pub fn idle(name: &str, image: &str) -> Self {
        Self::new(
            name,
            image,
            &["sh", "-c", "trap 'exit 0' TERM; echo idle; sleep 100000 & wait"],
        )
    }

    /// A shell that runs a script.
    #[must_use]
    pub fn script(name: &str, image: &str, script: &str) -> Self {
        Self::new(name, image, &["sh", "-c", script])
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        let variable = cri::KeyValue {
            key: key.to_owned(),
            value: value.into(),
        };
        self.with(|config| config.envs.push(variable))
    }

    /// Binds a directory or file of the host.
    #[must_use]
    pub fn bind(self, host: &Path, container: &str) -> Self {
        let mount = cri::Mount {
            host_path: host.display().to_string(),
            container_path: container.to_owned(),
            ..Default::default()
        };
        self.with(|config| config.mounts.push(mount))
    }

    /// Mounts an image as the kubelet asks for it: the whole, or what lies at `sub_path` when that is not empty.
    #[must_use]
    pub fn image_volume(self, image: &str, container: &str, sub_path: &str) -> Self {
        let mount = cri::Mount {
            container_path: container.to_owned(),
            readonly: true,
            image: Some(image_spec(image)),
            image_sub_path: sub_path.to_owned(),
            ..Default::default()
        };
        self.with(|config| config.mounts.push(mount))
    }

    /// Changes what guards the container, and what it may.
    #[must_use]
    pub fn security(self, change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> Self {
        self.with(|config| {
            change(
                config
                    .linux
                    .get_or_insert_default()
                    .security_context
                    .get_or_insert_default(),
            );
        })
    }

    /// Changes its share of the machine.
    #[must_use]
    pub fn resources(self, change: impl FnOnce(&mut cri::LinuxContainerResources)) -> Self {
        self.with(|config| {
            change(
                config
                    .linux
                    .get_or_insert_default()
                    .resources
                    .get_or_insert_default(),
            )
        })
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut cri::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The request's configuration.
    #[must_use]
    pub fn config(&self) -> &cri::ContainerConfig {
        &self.config
    }
}

/// What a command in a container wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output, lossily as text.
    pub stdout: String,
    /// Standard error, lossily as text.
    pub stderr: String,
    /// The exit code.
    pub code: i32,
}

/// A container that was created.
#[derive(Debug, Clone)]
pub struct Container {
    runtime: Runtime,
    id: String,
    log: PathBuf,
}

impl Container {
    pub(super) fn new(runtime: Runtime, id: String, log: PathBuf) -> Self {
        Self { runtime, id, log }
    }

    /// The same container, driven over another connection (after the daemon was started again).
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

    /// Where its log lies.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn start(&self) -> Result<(), Status> {
        let request = cri::StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.runtime.runtime().start_container(request).await?;
        Ok(())
    }

    /// Stops it: its stop signal, after `grace` SIGKILL.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn stop(&self, grace: Duration) -> Result<(), Status> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest {
            container_id: self.id.clone(),
            timeout,
        };
        self.runtime.runtime().stop_container(request).await?;
        Ok(())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.runtime.runtime().remove_container(request).await?;
        Ok(())
    }

    /// Its state and the rest.
    ///
    /// # Errors
    /// What the runtime answers; NotFound too when the answer is empty.
    pub async fn status(&self) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        let answer = self
            .runtime
            .runtime()
            .container_status(request)
            .await?
            .into_inner();
        answer
            .status
            .ok_or_else(|| Status::not_found("the answer holds no status"))
    }

    /// Runs a command in it, for at most 10 s (see [`wait::patient`]).
    ///
    /// # Errors
    /// What the runtime answers; an exit code other than 0 is none.
    pub async fn exec(&self, command: &[&str]) -> Result<Output, Status> {
        self.exec_for(command, wait::patient(Duration::from_secs(10)))
            .await
    }

    /// As [`Container::exec`], for at most `limit` (whole seconds; zero is for ever).
    ///
    /// # Errors
    /// What the runtime answers; an exit code other than 0 is none.
    pub async fn exec_for(&self, command: &[&str], limit: Duration) -> Result<Output, Status> {
        let request = cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        let answer = self.runtime.runtime().exec_sync(request).await?.into_inner();
        Ok(Output {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// Waits until it has exited, for at most 20 s; gives its status then.
    ///
    /// # Errors
    /// What the runtime answers, or that it still runs.
    pub async fn exited(&self) -> Result<cri::ContainerStatus> {
        wait::until_async("the container to exit", Duration::from_secs(20), || async {
            let status = self.status().await?;
            Ok((status.state() == cri::ContainerState::ContainerExited).then_some(status))
        })
        .await
    }

    /// The lines of its log: stream, tag (`F` whole, `P` partial) and text.
    ///
    /// # Errors
    /// When the log is not there or a line is not in the CRI format.
    pub fn log_lines(&self) -> Result<Vec<(String, String, String)>> {
        let text = std::fs::read_to_string(&self.log)
            .with_context(|| format!("cannot read the log {}", self.log.display()))?;
        text.lines()
            .map(|line| {
                let mut fields = line.splitn(4, ' ').skip(1).map(str::to_owned);
                match (fields.next(), fields.next(), fields.next()) {
                    (Some(stream), Some(tag), Some(text)) => Ok((stream, tag, text)),
                    _ => anyhow::bail!("not a line of the CRI log format: {line:?}"),
                }
            })
            .collect()
    }

    /// Waits until its log holds a line with `text`, for at most 20 s.
    ///
    /// # Errors
    /// When it does not turn up.
    pub async fn logged(&self, text: &str) -> Result<()> {
        wait::until_async(
            &format!("{text:?} in the container's log"),
            Duration::from_secs(20),
            || async {
                let found = self
                    .log_lines()
                    .is_ok_and(|lines| lines.iter().any(|line| line.2.contains(text)));
                Ok(found.then_some(()))
            },
        )
        .await
    }
}
