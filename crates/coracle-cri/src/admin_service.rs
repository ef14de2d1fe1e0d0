//! The admin service: what CRI has no word for, each call to its file.

use std::path::PathBuf;
use std::sync::Arc;

use coracle_engine::api::Difference;
use coracle_proto::admin;
use coracle_proto::admin::admin_server::Admin;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::facilities::Facilities;
use crate::process::Control;
use crate::translate::{self, FieldError, image};
use crate::{detached::detached, error};

mod images;
mod log_level;
mod operations;
mod pull;
mod push;
mod reload;

/// [`Admin`] in front of an engine.
pub(crate) struct AdminCalls<F> {
    engine: Arc<F>,
    control: Arc<dyn Control>,
}

impl<F> AdminCalls<F> {
    pub(crate) fn new(engine: Arc<F>, control: Arc<dyn Control>) -> Self {
        Self { engine, control }
    }
}

#[tonic::async_trait]
impl<F: Facilities> Admin for AdminCalls<F> {
    async fn audit(&self, _: Request<admin::AuditRequest>) -> Result<Response<admin::AuditResponse>, Status> {
        let findings = self.engine.audit().await;
        let findings = findings.into_iter().map(|finding| {
            let difference = match finding.difference {
                Difference::Leaked => admin::Difference::Leaked,
                Difference::Missing => admin::Difference::Missing,
            };
            admin::Finding {
                difference: difference.into(),
                kind: finding.kind,
                object: finding.object,
                owner: finding.owner,
                remedy: finding.remedy,
            }
        });
        Ok(Response::new(admin::AuditResponse {
            findings: findings.collect(),
        }))
    }

    async fn explain(
        &self,
        request: Request<admin::ExplainRequest>,
    ) -> Result<Response<admin::ExplainResponse>, Status> {
        let pod = translate::id("pod_sandbox_id", request.into_inner().pod_sandbox_id)
            .map_err(|e| error::field("Explain", &e))?;
        let steps = self
            .engine
            .explain(&pod)
            .map_err(|failure| error::status(&failure))?;
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let steps = steps.into_iter().map(|step| admin::Step {
            name: step.name,
            start_nanos: nanos(step.start),
            took_nanos: step.took.map(nanos),
        });
        Ok(Response::new(admin::ExplainResponse {
            steps: steps.collect(),
        }))
    }

    async fn reload_config(
        &self,
        _: Request<admin::ReloadConfigRequest>,
    ) -> Result<Response<admin::ReloadConfigResponse>, Status> {
        reload::reload(self.control.as_ref()).await.map(Response::new)
    }

    async fn show_config(
        &self,
        _: Request<admin::ShowConfigRequest>,
    ) -> Result<Response<admin::ShowConfigResponse>, Status> {
        Ok(Response::new(reload::show(self.control.as_ref())))
    }

    async fn set_log_level(
        &self,
        request: Request<admin::SetLogLevelRequest>,
    ) -> Result<Response<admin::SetLogLevelResponse>, Status> {
        log_level::call(self.control.as_ref(), request.get_ref()).map(Response::new)
    }

    type PullStream = ReceiverStream<Result<admin::PullEvent, Status>>;

    async fn pull(&self, request: Request<admin::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        pull::call(&self.engine, request.into_inner()).map(Response::new)
    }

    async fn import(
        &self,
        request: Request<admin::ImportRequest>,
    ) -> Result<Response<admin::ImportResponse>, Status> {
        let path = PathBuf::from(request.into_inner().path);
        if !path.is_absolute() {
            let problem = FieldError::new(
                "path",
                &path,
                "an absolute path (the daemon has another directory)",
            );
            return Err(error::field("Import", &problem));
        }
        let engine = Arc::clone(&self.engine);
        let images = detached("Import", async move { engine.import_images(&path).await }).await?;
        let images = images.iter().map(|found| image::admin_summary(found));
        Ok(Response::new(admin::ImportResponse {
            images: images.collect(),
        }))
    }

    async fn load(
        &self,
        request: Request<Streaming<admin::LoadRequest>>,
    ) -> Result<Response<admin::ImportResponse>, Status> {
        images::load(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    type SaveStream = ReceiverStream<Result<admin::SaveEvent, Status>>;

    async fn save(&self, request: Request<admin::SaveRequest>) -> Result<Response<Self::SaveStream>, Status> {
        images::save(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    type PushStream = ReceiverStream<Result<admin::PushEvent, Status>>;

    async fn push(&self, request: Request<admin::PushRequest>) -> Result<Response<Self::PushStream>, Status> {
        push::call(&self.engine, request.into_inner()).map(Response::new)
    }

    async fn image_details(
        &self,
        request: Request<admin::ImageDetailsRequest>,
    ) -> Result<Response<admin::ImageDetailsResponse>, Status> {
        images::details(&*self.engine, &request.into_inner().image)
            .await
            .map(Response::new)
    }

    async fn prune_images(
        &self,
        request: Request<admin::PruneImagesRequest>,
    ) -> Result<Response<admin::PruneImagesResponse>, Status> {
        images::prune(&self.engine, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_operations(
        &self,
        _: Request<admin::ListOperationsRequest>,
    ) -> Result<Response<admin::ListOperationsResponse>, Status> {
        Ok(Response::new(operations::call(&*self.engine)))
    }
}
