//! The admin service: what CRI has no word for, each call to its file.

use std::path::PathBuf;
use std::sync::Arc;

use coracle_engine::api::Difference;
use coracle_proto::admin;
use coracle_proto::admin::admin_server::Admin;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::facilities::Facilities;
use crate::translate::{self, FieldError, image};
use crate::{detached::detached, error};

mod pull;

/// [`Admin`] in front of an engine.
#[derive(Debug)]
pub(crate) struct AdminCalls<F> {
    engine: Arc<F>,
}

impl<F> AdminCalls<F> {
    pub(crate) fn new(engine: Arc<F>) -> Self {
        Self { engine }
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
}
