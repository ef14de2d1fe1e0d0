//! The engine's front: finds the pod that a request is for and asks it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_image::{Image, Progress, PullRequest};
use coracle_types::container::ContainerConfig;
use coracle_types::format::Format;
use coracle_types::image::ImageSpec;
use coracle_types::pod::PodSandboxConfig;
use coracle_types::resources::LinuxResources;
use coracle_types::steps::Step;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind, PodSandboxId, RuntimeHandlerName};

use crate::api::{
    CgroupDriver, ContainerFilter, ContainerStatus, ContainerSummary, Detail, ExecOutput, ExecSync, IdPrefix,
    PodFilter, PodStatus, PodSummary, PullImage,
};
use crate::config::LiveConfig;
use crate::error::EngineError;
use crate::index::Reserved;
use crate::operations::{Entry, Subject};
use crate::parts::Parts;
use crate::pod::{self, Answer, Beginning, PodHandle, Reply, Request, View};
use crate::policy::{PodPhase, Repeat};
use crate::record::{ContainerRecord, PodRecord};

/// The runtime behind all front ends.
pub struct Engine {
    pub(crate) parts: Arc<Parts>,
}

impl Engine {
    /// Makes and starts a pod sandbox. The same request again joins the one under way, or gives the
    /// sandbox that it made.
    ///
    /// # Errors
    /// `InvalidArgument` for a configuration or handler that cannot be, `AlreadyExists` for a name that
    /// another request took; else what failed, with all of it undone.
    pub async fn run_pod_sandbox(
        &self,
        config: PodSandboxConfig,
        handler: RuntimeHandlerName,
    ) -> Result<PodSandboxId, EngineError> {
        const OPERATION: &str = "run pod sandbox";
        coracle_spec::validate_pod(&config).map_err(EngineError::from_cause(OPERATION))?;
        if !self.parts.config.handlers.contains_key(&handler) {
            let known: Vec<_> = self
                .parts
                .config
                .handlers
                .keys()
                .map(|name| format!("{:?}", name.0))
                .collect();
            let message = format!(
                "runtime_handler {:?}: it is not configured; known are {}",
                handler.0,
                known.join(", ")
            );
            return Err(EngineError::new(Kind::InvalidArgument, OPERATION, message));
        }
        crate::cgroups::check_parent(&self.parts.config, &config.cgroup_parent)?;
        let name = config.metadata.clone();
        let record = PodRecord {
            format: Format,
            id: PodSandboxId::generate(),
            config,
            handler,
            created_at: UnixNanos::now(),
            phase: PodPhase::Starting,
            ips: Vec::new(),
            netns: None,
            boot: self.parts.boot.clone(),
            steps: Vec::new(),
            quarantine: None,
            left_alone: false,
        };
        let (reply, answer) = Reply::awaited();
        let mut fresh = Some((record.clone(), reply));
        let reserved = self.parts.index.reserve(&name, || {
            let (record, reply) = fresh.take().expect("reserve calls this once at most");
            pod::spawn(&self.parts, record, Vec::new(), Beginning::Run(reply))
        })?;
        match reserved {
            Reserved::New => {
                let gone = || EngineError::new(Kind::Internal, OPERATION, "the pod's task ended");
                answer.await.unwrap_or_else(|_| Err(gone()))?;
                Ok(record.id)
            }
            Reserved::Taken(handle) => {
                let view = handle.view();
                let same = view.pod.config == record.config && view.pod.handler == record.handler;
                let repeat = if same { Repeat::Same } else { Repeat::Differs };
                handle.ask(Request::Run(repeat)).await?;
                Ok(handle.id().clone())
            }
        }
    }

    /// Ends a pod's containers and frees its network and namespaces. A pod that is not there is stopped.
    ///
    /// # Errors
    /// What could not be freed; a further call tries again.
    pub async fn stop_pod_sandbox(&self, id: &IdPrefix) -> Result<(), EngineError> {
        self.ask_if_there(id, Request::Stop).await
    }

    /// Stops a pod and forgets it, with its containers. A pod that is not there is removed.
    ///
    /// # Errors
    /// What could not be removed; a further call tries again.
    pub async fn remove_pod_sandbox(&self, id: &IdPrefix) -> Result<(), EngineError> {
        self.ask_if_there(id, Request::Remove).await
    }

    async fn ask_if_there(&self, id: &IdPrefix, request: Request) -> Result<(), EngineError> {
        match self.parts.index.pod(id)? {
            Some(handle) => handle.ask(request).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// A pod sandbox, whole.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn pod_sandbox_status(&self, id: &IdPrefix, detail: Detail) -> Result<PodStatus, EngineError> {
        let handle = self.pod(id)?;
        let view = handle.view();
        let mut status = pod_status(&view);
        if detail == Detail::Verbose {
            status.info = crate::info::of_pod(&view, &handle);
        }
        Ok(status)
    }

    /// Pods that match, half-made ones hidden.
    #[must_use]
    pub fn list_pod_sandboxes(&self, filter: &PodFilter) -> Vec<PodSummary> {
        let views = self
            .parts
            .index
            .pods(&filter.id)
            .into_iter()
            .map(|handle| handle.view());
        views
            .filter(|view| view.pod.phase != PodPhase::Starting)
            .filter(|view| filter.state.is_none_or(|state| view.pod.state() == state))
            .filter(|view| has_labels(&view.pod.config.labels, &filter.labels))
            .map(|view| view.pod.summary())
            .collect()
    }

    /// Makes a container in a ready pod. The same request again joins the one under way, or gives the
    /// container that it made.
    ///
    /// # Errors
    /// `NotFound` for the pod or the image, `FailedPrecondition` when the pod is not ready,
    /// `InvalidArgument` for what cannot be; nothing is left.
    pub async fn create_container(
        &self,
        pod: &IdPrefix,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        match self.pod(pod)?.ask(Request::Create(Arc::new(config))).await? {
            Answer::Container(id) => Ok(id),
            Answer::Done | Answer::Shim(_) => Err(EngineError::new(
                Kind::Internal,
                "create container",
                "an answer to another question",
            )),
        }
    }

    /// Starts a created container; that it ends at once is no failure.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when it is past its start, and what kept its first process from
    /// running: the container is then exited with reason `StartError`.
    pub async fn start_container(&self, id: &IdPrefix) -> Result<(), EngineError> {
        let (id, handle) = self.container(id)?;
        handle.ask(Request::Start(id)).await.map(|_| ())
    }

    /// Sends the stop signal and after `timeout` KILL; returns when the container has ended.
    ///
    /// # Errors
    /// When it would not end. A container that is not there is stopped.
    pub async fn stop_container(&self, id: &IdPrefix, timeout: Duration) -> Result<(), EngineError> {
        match self.parts.index.container(id)? {
            Some((id, handle)) => handle.ask(Request::StopContainer(id, timeout)).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Ends a container and forgets it, with its writable layer. One that is not there is removed.
    ///
    /// # Errors
    /// What could not be removed; a further call tries again.
    pub async fn remove_container(&self, id: &IdPrefix) -> Result<(), EngineError> {
        match self.parts.index.container(id)? {
            Some((id, handle)) => handle.ask(Request::RemoveContainer(id)).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Puts the limits in force that `resources` sets; zero and empty leave a limit as it is. All of them or
    /// none; they hold for further starts, too.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for what cannot be, and what the kernel refused.
    pub async fn update_container_resources(
        &self,
        id: &IdPrefix,
        resources: LinuxResources,
    ) -> Result<(), EngineError> {
        let (id, handle) = self.container(id)?;
        handle
            .ask(Request::Update(id, Arc::new(resources)))
            .await
            .map(|_| ())
    }

    /// A container, whole.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn container_status(&self, id: &IdPrefix, detail: Detail) -> Result<ContainerStatus, EngineError> {
        let record = self.container_record(id)?;
        let mut status = record.status();
        if detail == Detail::Verbose {
            status.info = crate::info::of_container(&self.parts, &record);
        }
        Ok(status)
    }

    fn container_record(&self, id: &IdPrefix) -> Result<Arc<ContainerRecord>, EngineError> {
        let (id, handle) = self.container(id)?;
        let view = handle.view();
        view.containers
            .iter()
            .find(|record| record.id == id)
            .cloned()
            .ok_or_else(|| no_container(&id.to_string()))
    }

    /// Containers that match.
    #[must_use]
    pub fn list_containers(&self, filter: &ContainerFilter) -> Vec<ContainerSummary> {
        let matches = |record: &ContainerRecord| {
            record.id.as_str().starts_with(&filter.id.0)
                && filter.state.is_none_or(|state| record.state() == state)
                && has_labels(&record.config.labels, &filter.labels)
        };
        let mut found = Vec::new();
        for handle in self.parts.index.pods(&filter.pod) {
            let view = handle.view();
            found.extend(
                view.containers
                    .iter()
                    .filter(|record| matches(record))
                    .map(|record| record.summary()),
            );
        }
        found
    }

    /// Runs a command in a running container and keeps what it prints.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when the container does not run, `DeadlineExceeded` when the
    /// command was killed at its deadline. That it exits with a code other than 0 is no error.
    pub async fn exec_sync(&self, id: &IdPrefix, exec: ExecSync) -> Result<ExecOutput, EngineError> {
        const OPERATION: &str = "exec";
        coracle_spec::validate_exec(&exec.command).map_err(EngineError::from_cause(OPERATION))?;
        let (id, handle) = self.container(id)?;
        let shim = match handle.ask(Request::Use(id.clone())).await? {
            Answer::Shim(shim) => shim,
            Answer::Done | Answer::Container(_) => {
                return Err(EngineError::new(
                    Kind::Internal,
                    OPERATION,
                    "an answer to another question",
                ));
            }
        };
        let process = crate::exec::process(&self.parts.records.bundle(&id), &exec.command)?;
        let request = coracle_task::ExecSync {
            process,
            timeout: exec.timeout,
            limit: self.parts.config.exec_limit,
        };
        let entry = self.in_container("exec", &id, &handle);
        let output = entry
            .running()
            .step("exec.run", shim.exec_sync(&id, request))
            .await
            .map_err(EngineError::from_cause(OPERATION))?;
        Ok(ExecOutput {
            stdout: output.stdout,
            stderr: output.stderr,
            code: output.code,
        })
    }

    /// Has the container's log opened anew, after its file was renamed.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when the container does not run; no file is then made.
    pub async fn reopen_container_log(&self, id: &IdPrefix) -> Result<(), EngineError> {
        let (id, handle) = self.container(id)?;
        match handle.ask(Request::Use(id.clone())).await? {
            Answer::Shim(shim) => self
                .in_container("reopen container log", &id, &handle)
                .running()
                .step("log.reopen", shim.reopen_log(&id))
                .await
                .map_err(EngineError::from_cause("reopen container log")),
            Answer::Done | Answer::Container(_) => Ok(()),
        }
    }

    /// Pulls an image; gives it as it is known afterwards.
    ///
    /// # Errors
    /// What kept it from being pulled; nothing of it is then visible.
    pub async fn pull_image(
        &self,
        pull: PullImage,
        progress: Arc<dyn Progress>,
    ) -> Result<Arc<Image>, EngineError> {
        let subject = Subject::named(&pull.image.image);
        let request = PullRequest {
            reference: pull.image.image,
            credentials: pull.credentials,
            namespace: pull.sandbox.map(|sandbox| sandbox.metadata.namespace),
        };
        let entry = self.parts.operations.begin_for_client("pull image", subject);
        let pull = self.parts.images.pull(request, progress.as_ref());
        entry.running().step("pull.image", pull).await.map_err(|error| {
            use coracle_image::Error;
            let cause = match &error {
                Error::Shared(shared) => shared.as_ref(),
                own => own,
            };
            // What a registry or an image has too much of is no want of this node's.
            let of_node = matches!(
                cause,
                Error::Snapshot { .. } | Error::Content { .. } | Error::Store(_)
            );
            let failed = EngineError::from_cause("pull image")(error);
            if of_node {
                failed.or_free(&self.parts.config.root)
            } else {
                failed
            }
        })
    }

    /// Images, or the one that `filter` names.
    #[must_use]
    pub fn list_images(&self, filter: Option<&ImageSpec>) -> Vec<Arc<Image>> {
        match filter {
            Some(spec) if !spec.image.is_empty() => self.image_status(spec).into_iter().collect(),
            _ => self.parts.images.list(),
        }
    }

    /// The image of that tag, digest or id.
    #[must_use]
    pub fn image_status(&self, image: &ImageSpec) -> Option<Arc<Image>> {
        self.parts.images.get(&image.image)
    }

    /// Removes an image with all its names; its layers' bytes are free on return, but for those below
    /// containers' writable layers. An image that is not there is removed.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn remove_image(&self, image: &ImageSpec) -> Result<(), EngineError> {
        let subject = Subject::named(&image.image);
        let entry = self.parts.operations.begin_for_client("remove image", subject);
        entry
            .running()
            .step("image.remove", self.parts.images.remove(&image.image))
            .await
            .map(|_| ())
            .map_err(EngineError::from_cause("remove image"))
    }

    /// Loads images from an OCI layout (a directory or a tar), one after the other.
    ///
    /// # Errors
    /// What is wrong with it; images that came before that stay.
    pub async fn import_images(&self, path: &Path) -> Result<Vec<Arc<Image>>, EngineError> {
        let subject = Subject::named(path.display().to_string());
        let entry = self.parts.operations.begin_for_client("import images", subject);
        entry
            .running()
            .step("import.unpack", self.parts.images.load(path, None))
            .await
            .map_err(EngineError::from_cause("import images"))
    }

    /// Registry hosts that are being left alone since they could not be reached.
    #[must_use]
    pub fn paused_registry_hosts(&self) -> Vec<coracle_image::HostPause> {
        self.parts.images.paused_hosts()
    }

    /// Takes over what may change while pods run.
    pub fn reconfigure(&self, live: LiveConfig) {
        self.parts.images.set_registries(live.registries);
        self.parts.images.set_policy(live.policy);
        self.parts
            .networks
            .set_programs(live.cni_bin_dirs, live.plugin_deadline);
        self.parts.shims.set_deadlines(live.shim_deadlines);
        self.log_shims(&live.shim_log);
    }

    /// What shims log from now on.
    pub fn log_shims(&self, filter: &str) {
        self.parts.shims.set_log(filter);
    }

    /// Who makes the cgroups; constant for the daemon's life.
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.parts.config.cgroup_driver
    }

    /// The steps of a pod's start, in the order of their beginning.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn explain(&self, pod: &IdPrefix) -> Result<Vec<Step>, EngineError> {
        Ok(self.pod(pod)?.trace().steps())
    }

    pub(crate) fn pod(&self, id: &IdPrefix) -> Result<PodHandle, EngineError> {
        self.parts.index.pod(id)?.ok_or_else(|| {
            EngineError::new(
                Kind::NotFound,
                "find",
                format!("no pod sandbox has the id {:?}", id.0),
            )
        })
    }

    /// Enters an operation on a running container that its actor has no part in.
    fn in_container(&self, kind: &'static str, id: &ContainerId, handle: &PodHandle) -> Entry {
        let view = handle.view();
        let metadata = &view.pod.config.metadata;
        let record = view.containers.iter().find(|record| record.id == *id);
        let container = record.map_or("", |record| record.config.metadata.name.as_str());
        let subject = Subject {
            pod: Some(handle.id().clone()),
            container: Some(id.clone()),
            name: format!("{}/{}/{container}", metadata.namespace, metadata.name),
        };
        self.parts.operations.begin_for_client(kind, subject)
    }

    pub(crate) fn container(&self, id: &IdPrefix) -> Result<(ContainerId, PodHandle), EngineError> {
        self.parts.index.container(id)?.ok_or_else(|| no_container(&id.0))
    }
}

/// A pod with its containers, as published at one moment.
pub(crate) fn pod_status(view: &View) -> PodStatus {
    PodStatus {
        summary: view.pod.summary(),
        ips: view.pod.ips.clone(),
        namespaces: view.pod.config.security.namespaces.clone(),
        containers: view.containers.iter().map(|record| record.status()).collect(),
        timestamp: UnixNanos::now(),
        info: BTreeMap::new(),
    }
}

pub(crate) fn no_container(id: &str) -> EngineError {
    EngineError::new(Kind::NotFound, "find", format!("no container has the id {id:?}"))
}

pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
