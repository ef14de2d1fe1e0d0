//! CreateContainer: from a request and an image to a bundle and a writable layer.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_image::Image;
use coracle_spec::{ContainerInput, HandlerDefaults, Paths, ResolvedUser};
use coracle_types::container::ContainerConfig;
use coracle_types::format::Format;
use coracle_types::security::NamespaceMode;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind};
use oci_spec::runtime::Spec;

use super::sandbox::{PodContext, interrupted};
use crate::api::ProcessUser;
use crate::error::EngineError;
use crate::policy::ContainerPhase;
use crate::record::{ContainerRecord, io_failed, make_private_dir};

const OPERATION: &str = "create container";

impl PodContext {
    /// The record of a container to be; everything that can be refused without looking into the image
    /// is refused here.
    pub(super) fn draft(
        &self,
        id: &ContainerId,
        config: &Arc<ContainerConfig>,
    ) -> Result<ContainerRecord, EngineError> {
        let invalid = |message: String| EngineError::new(Kind::InvalidArgument, OPERATION, message);
        // The driver may have changed since the pod was made.
        crate::cgroups::check_parent(&self.parts.config, &self.pod.config.cgroup_parent)?;
        coracle_spec::validate_container(config).map_err(EngineError::from_cause(OPERATION))?;
        if config.security.privileged && !self.pod.config.security.privileged {
            return Err(invalid(format!(
                "security_context.privileged is true in a pod sandbox ({}) that is not privileged: \
                 run the sandbox with security_context.privileged",
                self.pod.id
            )));
        }
        let image = self.image(config)?;
        let log_path = (!config.log_path.is_empty() && !self.pod.config.log_directory.is_empty())
            .then(|| PathBuf::from(&self.pod.config.log_directory).join(&config.log_path));
        Ok(ContainerRecord {
            format: Format,
            id: id.clone(),
            pod: self.pod.id.clone(),
            config: ContainerConfig::clone(config),
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            volumes: self.volume_images(config)?,
            cgroup: self.cgroup_of(id.as_str()),
            user: ProcessUser::default(),
            stop_signal: coracle_spec::stop_signal(config, &spec_settings(&image))
                .map_err(EngineError::from_cause(OPERATION))?,
            log_path,
            resources: config.resources.clone(),
            phase: ContainerPhase::Creating,
            pid: None,
            created_at: UnixNanos::now(),
            started_at: UnixNanos::default(),
            finished_at: UnixNanos::default(),
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            left_alone: false,
        })
    }

    fn image(&self, config: &ContainerConfig) -> Result<Arc<Image>, EngineError> {
        let name = if config.image.image.is_empty() {
            &config.image.image_ref
        } else {
            &config.image.image
        };
        let image = self.parts.images.get(name).ok_or_else(|| {
            let message = format!("image {name:?} is not on this node: pull it first");
            EngineError::new(Kind::NotFound, OPERATION, message)
        })?;
        match &image.artifact {
            Some(kind) => {
                let message = format!(
                    "image {name:?} is an artifact of type {kind:?}, no root file system for a container: \
                     mount it as an image volume, or name an image"
                );
                Err(EngineError::new(Kind::InvalidArgument, OPERATION, message))
            }
            None => Ok(image),
        }
    }

    /// Makes the writable layer and the bundle; on failure neither stays.
    pub(super) async fn create(
        self,
        draft: ContainerRecord,
        target: Option<Arc<ContainerRecord>>,
    ) -> Result<ContainerRecord, EngineError> {
        let id = draft.id.clone();
        let context = self.clone();
        let made = self
            .trace
            .step("create.bundle", async move {
                let blocking = move || context.create_blocking(draft, target.as_deref());
                let made = tokio::task::spawn_blocking(blocking).await;
                made.unwrap_or_else(|error| Err(interrupted(OPERATION, &error)))
            })
            .await;
        if made.is_err()
            && let Err(error) = self.forget_container(&id).await
        {
            tracing::error!(container = %id, %error, "a failed creation could not be undone whole");
        }
        made
    }

    fn create_blocking(
        &self,
        mut record: ContainerRecord,
        target: Option<&ContainerRecord>,
    ) -> Result<ContainerRecord, EngineError> {
        let image = self.image(&record.config)?;
        let settings = spec_settings(&image);
        let root = self
            .parts
            .snapshots
            .view(&record.layers)
            .map_err(EngineError::from_cause("look into the image"))?;
        let user = coracle_spec::resolve_user(root.as_fd(), &settings.user, &record.config.security)
            .map_err(EngineError::from_cause(OPERATION))?;
        drop(root);
        coracle_spec::ensure_mount_sources(&record.config).map_err(EngineError::from_cause(OPERATION))?;
        super::preflight::check_sets(&record.config.resources)?;
        let spec = self.spec(&record, &settings, &user, target)?;
        if let Some(path) = &record.log_path {
            super::preflight::check_log(path)?;
        }
        let bundle = self.parts.records.bundle(&record.id);
        make_private_dir(&bundle)?;
        let path = bundle.join("config.json");
        let text = serde_json::to_vec(&spec).map_err(|error| {
            EngineError::new(Kind::Internal, OPERATION, format!("{}: {error}", path.display()))
        })?;
        fs::write(&path, text).map_err(|error| io_failed("write", &path, &error))?;
        self.parts
            .snapshots
            .rootfs(&record.layers, &record.id)
            .map_err(|error| {
                EngineError::from_cause("make the writable layer")(error).or_free(&self.parts.config.root)
            })?;
        self.keep_volumes(&record)?;
        record.user = ProcessUser {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.additional_gids,
        };
        record.phase = ContainerPhase::Created;
        self.parts.records.put_container(&record)?;
        Ok(record)
    }

    fn spec(
        &self,
        record: &ContainerRecord,
        image: &coracle_spec::ImageSettings,
        user: &ResolvedUser,
        target: Option<&ContainerRecord>,
    ) -> Result<Spec, EngineError> {
        let pod = &self.pod.config;
        let namespaces = &pod.security.namespaces;
        let files = self.files();
        let own_network = namespaces.network != NamespaceMode::Node;
        let own_ipc = namespaces.ipc != NamespaceMode::Node;
        let own_user = namespaces
            .user
            .as_ref()
            .is_some_and(|user| user.mode != NamespaceMode::Node);
        let paths = Paths {
            netns: own_network.then(|| self.parts.networks.netns_path(&self.pod.id)),
            ipc: own_ipc.then(|| files.namespace("ipc")),
            uts: own_network.then(|| files.namespace("uts")),
            pid: self.pid_namespace(record, target)?,
            user: own_user.then(|| files.namespace("user")),
            resolv_conf: Some(files.resolv_conf()),
            hosts: Some(files.hosts()),
            hostname: Some(files.hostname()),
            shm: own_ipc.then(|| files.shm()),
            image_mounts: self.image_mounts(record)?,
        };
        let defaults = HandlerDefaults {
            pids_limit: self.parts.config.pids_limit.map(i64::from),
            apparmor_profile: self.parts.apparmor.clone(),
            ..HandlerDefaults::default()
        };
        let input = ContainerInput {
            id: &record.id,
            pod_id: &record.pod,
            pod,
            container: &record.config,
            image,
            user,
            paths: &paths,
            cgroup_path: &record.cgroup,
            defaults: &defaults,
            host: &self.parts.host,
        };
        coracle_spec::container_spec(&input).map_err(EngineError::from_cause(OPERATION))
    }

    /// The PID namespace to join; `None` for one of its own or the host's.
    fn pid_namespace(
        &self,
        record: &ContainerRecord,
        target: Option<&ContainerRecord>,
    ) -> Result<Option<PathBuf>, EngineError> {
        match record.config.security.namespaces.pid {
            NamespaceMode::Pod => Ok(Some(self.files().namespace("pid"))),
            NamespaceMode::Container | NamespaceMode::Node => Ok(None),
            NamespaceMode::Target => {
                let pid = target
                    .filter(|target| target.phase == ContainerPhase::Running)
                    .and_then(|target| target.pid);
                let pid = pid.ok_or_else(|| {
                    let message = format!(
                        "namespace_options.target_id {:?} is no running container of pod sandbox {}",
                        record.config.security.namespaces.target_id, self.pod.id
                    );
                    EngineError::new(Kind::InvalidArgument, OPERATION, message)
                })?;
                Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))))
            }
        }
    }
}

fn spec_settings(image: &Image) -> coracle_spec::ImageSettings {
    let settings = &image.settings;
    coracle_spec::ImageSettings {
        env: settings.env.clone(),
        entrypoint: settings.entrypoint.clone(),
        cmd: settings.cmd.clone(),
        working_dir: settings.working_dir.clone(),
        user: settings.user.clone(),
        volumes: settings
            .volumes
            .iter()
            .map(|path| (path.clone(), serde_json::Value::Null))
            .collect(),
        stop_signal: settings.stop_signal.clone(),
        labels: settings.labels.clone(),
    }
}
