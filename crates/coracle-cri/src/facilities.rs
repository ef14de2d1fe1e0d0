//! What this front end needs of the runtime behind it.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_engine::EngineError;
use coracle_engine::api::{
    CgroupDriver, ContainerFilter, ContainerStatus, ContainerSummary, Detail, ExecOutput, ExecSync, Finding,
    IdPrefix, ImageFsInfo, NodeStatus, PodFilter, PodStatus, PodSummary, PullImage,
};
use coracle_image::{Image, Progress};
use coracle_types::container::ContainerConfig;
use coracle_types::image::ImageSpec;
use coracle_types::pod::PodSandboxConfig;
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
    fn image_fs_info(&self) -> impl Future<Output = Result<ImageFsInfo, EngineError>> + Send;

    fn status(&self, detail: Detail) -> impl Future<Output = NodeStatus> + Send;
    fn cgroup_driver(&self) -> CgroupDriver;
    fn update_pod_cidr(&self, cidr: &str) -> Result<(), EngineError>;
    fn audit(&self) -> impl Future<Output = Vec<Finding>> + Send;
    fn explain(&self, pod: &IdPrefix) -> Result<Vec<Step>, EngineError>;
}
