//! What this front end needs of the runtime behind it.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_engine::EngineError;
use coracle_engine::api::{
    CgroupDriver, ContainerFilter, ContainerStatus, ContainerSummary, Detail, ExecOutput, ExecSync, Finding,
    IdPrefix, ImageFsInfo, NodeStatus, PodFilter, PodStatus, PodSummary, PruneImages, Pruned, PullImage,
};
use coracle_engine::events::Following;
use coracle_engine::operations::Operation;
use coracle_engine::stats::{ContainerStats, Measures, PodMetrics, PodStats};
use coracle_image::{Details, Image, Progress, PushRequest, Pushed, SaveRequest, Saved};
use coracle_types::container::ContainerConfig;
use coracle_types::image::ImageSpec;
use coracle_types::pod::PodSandboxConfig;
use coracle_types::resources::LinuxResources;
use coracle_types::steps::Step;
use coracle_types::{ContainerId, PodSandboxId, RuntimeHandlerName};

/// The calls of the engine that have a wire; each means what the CRI call of its name means.
#[allow(missing_docs, reason = "the engine documents its methods")]
pub trait Facilities: Send + Sync + 'static {
    fn run_pod_sandbox(
        &self,
        config: PodSandboxConfig,
        handler: RuntimeHandlerName,
    ) -> impl Future<Output = Result<PodSandboxId, EngineError>> + Send;
    fn stop_pod_sandbox(&self, id: &IdPrefix) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn remove_pod_sandbox(&self, id: &IdPrefix) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn pod_sandbox_status(&self, id: &IdPrefix, detail: Detail) -> Result<PodStatus, EngineError>;
    fn list_pod_sandboxes(&self, filter: &PodFilter) -> Vec<PodSummary>;

    fn create_container(
        &self,
        pod: &IdPrefix,
        config: ContainerConfig,
    ) -> impl Future<Output = Result<ContainerId, EngineError>> + Send;
    fn start_container(&self, id: &IdPrefix) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn stop_container(
        &self,
        id: &IdPrefix,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn remove_container(&self, id: &IdPrefix) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn container_status(&self, id: &IdPrefix, detail: Detail) -> Result<ContainerStatus, EngineError>;
    fn list_containers(&self, filter: &ContainerFilter) -> Vec<ContainerSummary>;
    fn exec_sync(
        &self,
        id: &IdPrefix,
        exec: ExecSync,
    ) -> impl Future<Output = Result<ExecOutput, EngineError>> + Send;
    fn update_container_resources(
        &self,
        id: &IdPrefix,
        resources: LinuxResources,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn reopen_container_log(&self, id: &IdPrefix) -> impl Future<Output = Result<(), EngineError>> + Send;

    fn pull_image(
        &self,
        pull: PullImage,
        progress: Arc<dyn Progress>,
    ) -> impl Future<Output = Result<Arc<Image>, EngineError>> + Send;
    fn list_images(&self, filter: Option<&ImageSpec>) -> Vec<Arc<Image>>;
    fn image_status(&self, image: &ImageSpec) -> Option<Arc<Image>>;
    fn remove_image(&self, image: &ImageSpec) -> impl Future<Output = Result<(), EngineError>> + Send;
    fn import_images(&self, path: &Path)
    -> impl Future<Output = Result<Vec<Arc<Image>>, EngineError>> + Send;
    fn image_details(&self, image: &str) -> impl Future<Output = Result<Details, EngineError>> + Send;
    fn archive_file(&self) -> Result<File, EngineError>;
    fn load_images(&self, archive: File)
    -> impl Future<Output = Result<Vec<Arc<Image>>, EngineError>> + Send;
    fn save_images(&self, request: SaveRequest) -> impl Future<Output = Result<Saved, EngineError>> + Send;
    fn push_image(
        &self,
        request: PushRequest,
        progress: Arc<dyn Progress>,
    ) -> impl Future<Output = Result<Pushed, EngineError>> + Send;
    fn prune_images(&self, prune: PruneImages) -> impl Future<Output = Result<Pruned, EngineError>> + Send;
    fn image_fs_info(&self) -> impl Future<Output = ImageFsInfo> + Send;

    fn status(&self, detail: Detail) -> impl Future<Output = NodeStatus> + Send;
    fn cgroup_driver(&self) -> CgroupDriver;
    fn update_pod_cidr(&self, cidr: &str) -> Result<(), EngineError>;
    fn audit(&self) -> impl Future<Output = Vec<Finding>> + Send;
    fn explain(&self, pod: &IdPrefix) -> Result<Vec<Step>, EngineError>;

    fn container_stats(
        &self,
        id: &IdPrefix,
    ) -> impl Future<Output = Result<ContainerStats, EngineError>> + Send;
    fn list_container_stats(
        &self,
        filter: &ContainerFilter,
    ) -> impl Future<Output = Vec<ContainerStats>> + Send;
    fn pod_stats(&self, id: &IdPrefix) -> impl Future<Output = Result<PodStats, EngineError>> + Send;
    fn list_pod_stats(&self, filter: &PodFilter) -> impl Future<Output = Vec<PodStats>> + Send;
    fn measures(&self) -> Measures;
    fn pod_metrics(&self) -> impl Future<Output = Vec<PodMetrics>> + Send;
    fn follow_events(&self) -> Following;
    fn end_streams(&self);
    fn operations(&self) -> Vec<Operation>;
}
