//! A runtime that only remembers what it was asked.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_engine::EngineError;
use coracle_engine::api::{
    CgroupDriver, Condition, ContainerFilter, ContainerStatus, ContainerSummary, Detail, Difference,
    ExecOutput, ExecSync, Finding, FsUsage, HandlerFeatures, IdPrefix, ImageFsInfo, NodeStatus, PodFilter,
    PodStatus, PodSummary, PruneImages, Pruned, PullImage,
};
use coracle_engine::events::Following;
use coracle_engine::operations::{Awaited, Operation, RunningStep};
use coracle_engine::stats::{ContainerStats, Measures, PodMetrics, PodStats};
use coracle_image::{
    Details, Image, LayerPhase, LayerProgress, Progress, PushRequest, Pushed, SaveRequest, Saved,
};
use coracle_types::container::ContainerConfig;
use coracle_types::image::ImageSpec;
use coracle_types::pod::PodSandboxConfig;
use coracle_types::resources::LinuxResources;
use coracle_types::steps::Step;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Digest, Kind, PodSandboxId, RuntimeHandlerName};
use tokio::sync::Notify;

use crate::facilities::Facilities;

/// Remembers calls; what a test wants to be slow waits for `gate`.
#[derive(Debug, Default)]
pub(super) struct Memory {
    asked: Mutex<Vec<String>>,
    pub(super) gate: Notify,
    pub(super) done: AtomicBool,
}

impl Memory {
    fn note(&self, text: String) {
        self.asked.lock().unwrap().push(text);
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn refused(kind: Kind) -> EngineError {
    EngineError::new(kind, "test", "as the test wants it")
}

fn usage() -> FsUsage {
    FsUsage {
        mountpoint: "/var/lib/x".into(),
        used_bytes: 5,
        inodes_used: 6,
        timestamp: UnixNanos(7),
    }
}

impl Facilities for Memory {
    async fn run_pod_sandbox(
        &self,
        config: PodSandboxConfig,
        handler: RuntimeHandlerName,
    ) -> Result<PodSandboxId, EngineError> {
        self.note(format!("run {} {handler:?}", config.metadata.name));
        match config.metadata.name.as_str() {
            "slow" => {
                self.gate.notified().await;
                self.done.store(true, Ordering::SeqCst);
                self.gate.notify_one();
            }
            "panics" => panic!("as the test wants it"),
            _ => {}
        }
        Ok(PodSandboxId::generate())
    }
    async fn stop_pod_sandbox(&self, id: &IdPrefix) -> Result<(), EngineError> {
        self.note(format!("stop {}", id.0));
        Ok(())
    }
    async fn remove_pod_sandbox(&self, _: &IdPrefix) -> Result<(), EngineError> {
        Ok(())
    }
    fn pod_sandbox_status(&self, _: &IdPrefix, _: Detail) -> Result<PodStatus, EngineError> {
        Err(refused(Kind::NotFound))
    }
    fn list_pod_sandboxes(&self, filter: &PodFilter) -> Vec<PodSummary> {
        self.note(format!(
            "list {} {:?} {:?}",
            filter.id.0, filter.state, filter.labels
        ));
        Vec::new()
    }
    async fn create_container(&self, _: &IdPrefix, _: ContainerConfig) -> Result<ContainerId, EngineError> {
        Err(refused(Kind::RecursiveReadOnlyUnsupported))
    }
    async fn start_container(&self, _: &IdPrefix) -> Result<(), EngineError> {
        Err(refused(Kind::FailedPrecondition))
    }
    async fn stop_container(&self, id: &IdPrefix, timeout: Duration) -> Result<(), EngineError> {
        self.note(format!("stop {} {timeout:?}", id.0));
        Ok(())
    }
    async fn remove_container(&self, _: &IdPrefix) -> Result<(), EngineError> {
        Ok(())
    }
    fn container_status(&self, _: &IdPrefix, _: Detail) -> Result<ContainerStatus, EngineError> {
        Err(refused(Kind::NotFound))
    }
    fn list_containers(&self, _: &ContainerFilter) -> Vec<ContainerSummary> {
        Vec::new()
    }
    async fn exec_sync(&self, _: &IdPrefix, exec: ExecSync) -> Result<ExecOutput, EngineError> {
        if exec.timeout.is_some() {
            return Err(refused(Kind::DeadlineExceeded));
        }
        Ok(ExecOutput {
            stdout: vec![b'o'; 16_000_000],
            stderr: vec![b'e'; 16_000_000],
            code: 3,
        })
    }
    async fn update_container_resources(&self, id: &IdPrefix, _: LinuxResources) -> Result<(), EngineError> {
        self.note(format!("update {}", id.0));
        Ok(())
    }
    async fn reopen_container_log(&self, _: &IdPrefix) -> Result<(), EngineError> {
        Ok(())
    }
    async fn pull_image(
        &self,
        pull: PullImage,
        progress: Arc<dyn Progress>,
    ) -> Result<Arc<Image>, EngineError> {
        self.note(format!(
            "pull {} {:?} {}",
            pull.image.image,
            pull.credentials,
            pull.sandbox.is_some()
        ));
        let layer = LayerProgress {
            digest: Digest::from_sha256(&[1; 32]),
            phase: LayerPhase::Downloading,
            done: 3,
            total: 9,
            hosts: vec!["mirror.example".into()],
        };
        progress.layer(&layer);
        Err(refused(Kind::RegistryUnavailable))
    }
    fn list_images(&self, _: Option<&ImageSpec>) -> Vec<Arc<Image>> {
        Vec::new()
    }
    fn image_status(&self, _: &ImageSpec) -> Option<Arc<Image>> {
        None
    }
    async fn remove_image(&self, _: &ImageSpec) -> Result<(), EngineError> {
        Ok(())
    }
    async fn import_images(&self, path: &Path) -> Result<Vec<Arc<Image>>, EngineError> {
        self.note(format!("import {}", path.display()));
        Ok(Vec::new())
    }
    async fn image_details(&self, _: &str) -> Result<Details, EngineError> {
        Err(refused(Kind::NotFound))
    }
    fn archive_file(&self) -> Result<File, EngineError> {
        Err(refused(Kind::ResourceExhausted))
    }
    async fn load_images(&self, _: File) -> Result<Vec<Arc<Image>>, EngineError> {
        Ok(Vec::new())
    }
    async fn save_images(&self, _: SaveRequest) -> Result<Saved, EngineError> {
        Err(refused(Kind::NotFound))
    }
    async fn push_image(&self, _: PushRequest, _: Arc<dyn Progress>) -> Result<Pushed, EngineError> {
        Err(refused(Kind::PermissionDenied))
    }
    async fn prune_images(&self, prune: PruneImages) -> Result<Pruned, EngineError> {
        self.note(format!(
            "prune {} {:?} {}",
            prune.all, prune.before, prune.dry_run
        ));
        Ok(Pruned::default())
    }
    async fn image_fs_info(&self) -> ImageFsInfo {
        ImageFsInfo {
            images: usage(),
            containers: usage(),
        }
    }
    async fn status(&self, _: Detail) -> NodeStatus {
        NodeStatus {
            conditions: [("RuntimeReady", true), ("NetworkReady", false)]
                .map(|(name, holds)| Condition {
                    name,
                    holds,
                    reason: "NoConfiguration".into(),
                    message: "none".into(),
                })
                .into(),
            handlers: vec![HandlerFeatures {
                name: RuntimeHandlerName::default(),
                recursive_read_only_mounts: true,
                user_namespaces: false,
            }],
            info: Default::default(),
        }
    }
    fn cgroup_driver(&self) -> CgroupDriver {
        CgroupDriver::Cgroupfs
    }
    fn update_pod_cidr(&self, cidr: &str) -> Result<(), EngineError> {
        self.note(format!("cidr {cidr}"));
        Ok(())
    }
    async fn audit(&self) -> Vec<Finding> {
        vec![Finding {
            difference: Difference::Missing,
            kind: "netns".into(),
            object: "/run/netns/x".into(),
            owner: "p".into(),
            remedy: "remove the pod".into(),
        }]
    }
    fn explain(&self, _: &IdPrefix) -> Result<Vec<Step>, EngineError> {
        let start = Duration::from_micros(4);
        Ok(vec![Step {
            name: "run.network".into(),
            start,
            took: None,
        }])
    }
    async fn container_stats(&self, _: &IdPrefix) -> Result<ContainerStats, EngineError> {
        Err(refused(Kind::NotFound))
    }
    async fn list_container_stats(&self, filter: &ContainerFilter) -> Vec<ContainerStats> {
        self.note(format!(
            "stats {} {} {:?}",
            filter.id.0, filter.pod.0, filter.labels
        ));
        Vec::new()
    }
    async fn pod_stats(&self, _: &IdPrefix) -> Result<PodStats, EngineError> {
        Err(refused(Kind::FailedPrecondition))
    }
    async fn list_pod_stats(&self, filter: &PodFilter) -> Vec<PodStats> {
        self.note(format!("pod stats {} {:?}", filter.id.0, filter.labels));
        Vec::new()
    }
    fn measures(&self) -> Measures {
        Measures::default()
    }
    async fn pod_metrics(&self) -> Vec<PodMetrics> {
        Vec::new()
    }
    fn follow_events(&self) -> Following {
        Following::default()
    }
    fn end_streams(&self) {
        self.note("end streams".into());
    }
    fn operations(&self) -> Vec<Operation> {
        let step = RunningStep {
            name: "run.network",
            age: Duration::from_secs(2),
            awaits: Some(Awaited::Plugin),
        };
        vec![Operation {
            id: 7,
            kind: "run pod sandbox",
            pod: None,
            container: None,
            name: "ns/pod".into(),
            began: UnixNanos(1),
            age: Duration::from_secs(3),
            waiting: 2,
            steps: vec![step],
        }]
    }
}
