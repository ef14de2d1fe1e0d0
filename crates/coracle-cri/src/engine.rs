//! The engine as the runtime behind this front end: each facility is its method of the same name.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_engine::api::{
    CgroupDriver, ContainerFilter, ContainerStatus, ContainerSummary, Detail, ExecOutput, ExecSync, Finding,
    IdPrefix, ImageFsInfo, NodeStatus, PodFilter, PodStatus, PodSummary, PruneImages, Pruned, PullImage,
};
use coracle_engine::events::Following;
use coracle_engine::operations::Operation;
use coracle_engine::stats::{ContainerStats, Measures, PodMetrics, PodStats};
use coracle_engine::{Engine, EngineError};
use coracle_image::{Details, Image, Progress, PushRequest, Pushed, SaveRequest, Saved};
use coracle_types::container::ContainerConfig;
use coracle_types::image::ImageSpec;
use coracle_types::pod::PodSandboxConfig;
use coracle_types::resources::LinuxResources;
use coracle_types::steps::Step;
use coracle_types::{ContainerId, PodSandboxId, RuntimeHandlerName};

use crate::facilities::Facilities;

impl Facilities for Engine {
    async fn run_pod_sandbox(
        &self,
        config: PodSandboxConfig,
        handler: RuntimeHandlerName,
    ) -> Result<PodSandboxId, EngineError> {
        Engine::run_pod_sandbox(self, config, handler).await
    }

    async fn stop_pod_sandbox(&self, id: &IdPrefix) -> Result<(), EngineError> {
        Engine::stop_pod_sandbox(self, id).await
    }

    async fn remove_pod_sandbox(&self, id: &IdPrefix) -> Result<(), EngineError> {
        Engine::remove_pod_sandbox(self, id).await
    }

    fn pod_sandbox_status(&self, id: &IdPrefix, detail: Detail) -> Result<PodStatus, EngineError> {
        Engine::pod_sandbox_status(self, id, detail)
    }

    fn list_pod_sandboxes(&self, filter: &PodFilter) -> Vec<PodSummary> {
        Engine::list_pod_sandboxes(self, filter)
    }

    async fn create_container(
        &self,
        pod: &IdPrefix,
        config: ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        Engine::create_container(self, pod, config).await
    }

    async fn start_container(&self, id: &IdPrefix) -> Result<(), EngineError> {
        Engine::start_container(self, id).await
    }

    async fn stop_container(&self, id: &IdPrefix, timeout: Duration) -> Result<(), EngineError> {
        Engine::stop_container(self, id, timeout).await
    }

    async fn remove_container(&self, id: &IdPrefix) -> Result<(), EngineError> {
        Engine::remove_container(self, id).await
    }

    fn container_status(&self, id: &IdPrefix, detail: Detail) -> Result<ContainerStatus, EngineError> {
        Engine::container_status(self, id, detail)
    }

    fn list_containers(&self, filter: &ContainerFilter) -> Vec<ContainerSummary> {
        Engine::list_containers(self, filter)
    }

    async fn exec_sync(&self, id: &IdPrefix, exec: ExecSync) -> Result<ExecOutput, EngineError> {
        Engine::exec_sync(self, id, exec).await
    }

    async fn update_container_resources(
        &self,
        id: &IdPrefix,
        resources: LinuxResources,
    ) -> Result<(), EngineError> {
        Engine::update_container_resources(self, id, resources).await
    }

    async fn reopen_container_log(&self, id: &IdPrefix) -> Result<(), EngineError> {
        Engine::reopen_container_log(self, id).await
    }

    async fn pull_image(
        &self,
        pull: PullImage,
        progress: Arc<dyn Progress>,
    ) -> Result<Arc<Image>, EngineError> {
        Engine::pull_image(self, pull, progress).await
    }

    fn list_images(&self, filter: Option<&ImageSpec>) -> Vec<Arc<Image>> {
        Engine::list_images(self, filter)
    }

    fn image_status(&self, image: &ImageSpec) -> Option<Arc<Image>> {
        Engine::image_status(self, image)
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<(), EngineError> {
        Engine::remove_image(self, image).await
    }

    async fn import_images(&self, path: &Path) -> Result<Vec<Arc<Image>>, EngineError> {
        Engine::import_images(self, path).await
    }

    async fn image_details(&self, image: &str) -> Result<Details, EngineError> {
        Engine::image_details(self, image).await
    }

    fn archive_file(&self) -> Result<File, EngineError> {
        Engine::archive_file(self)
    }

    async fn load_images(&self, archive: File) -> Result<Vec<Arc<Image>>, EngineError> {
        Engine::load_images(self, archive).await
    }

    async fn save_images(&self, request: SaveRequest) -> Result<Saved, EngineError> {
        Engine::save_images(self, request).await
    }

    async fn push_image(
        &self,
        request: PushRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed, EngineError> {
        Engine::push_image(self, request, progress).await
    }

    async fn prune_images(&self, prune: PruneImages) -> Result<Pruned, EngineError> {
        Engine::prune_images(self, prune).await
    }

    async fn image_fs_info(&self) -> ImageFsInfo {
        Engine::image_fs_info(self).await
    }

    async fn status(&self, detail: Detail) -> NodeStatus {
        Engine::status(self, detail).await
    }

    fn cgroup_driver(&self) -> CgroupDriver {
        Engine::cgroup_driver(self)
    }

    fn update_pod_cidr(&self, cidr: &str) -> Result<(), EngineError> {
        Engine::update_pod_cidr(self, cidr)
    }

    async fn audit(&self) -> Vec<Finding> {
        Engine::audit(self).await
    }

    fn explain(&self, pod: &IdPrefix) -> Result<Vec<Step>, EngineError> {
        Engine::explain(self, pod)
    }

    async fn container_stats(&self, id: &IdPrefix) -> Result<ContainerStats, EngineError> {
        Engine::container_stats(self, id).await
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> Vec<ContainerStats> {
        Engine::list_container_stats(self, filter).await
    }

    async fn pod_stats(&self, id: &IdPrefix) -> Result<PodStats, EngineError> {
        Engine::pod_stats(self, id).await
    }

    async fn list_pod_stats(&self, filter: &PodFilter) -> Vec<PodStats> {
        Engine::list_pod_stats(self, filter).await
    }

    fn measures(&self) -> Measures {
        Engine::measures(self)
    }

    async fn pod_metrics(&self) -> Vec<PodMetrics> {
        Engine::pod_metrics(self).await
    }

    fn follow_events(&self) -> Following {
        Engine::follow_events(self)
    }

    fn end_streams(&self) {
        Engine::end_streams(self);
    }

    fn operations(&self) -> Vec<Operation> {
        Engine::operations(self)
    }
}
