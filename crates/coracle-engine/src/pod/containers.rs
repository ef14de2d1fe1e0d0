//! StartContainer and RemoveContainer.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use coracle_snapshot::Writable;
use coracle_task::{Shim, TaskCreate};
use coracle_types::time::UnixNanos;
use tokio::sync::watch;
use tokio::time::timeout;

use super::actor::lock;
use super::sandbox::{PodContext, interrupted};
use crate::error::EngineError;
use crate::objects::Object;
use crate::record::{ContainerRecord, io_failed};

/// How long a removal waits for the daemon's own note of an exit that the shim has told already.
const NOTED: Duration = Duration::from_secs(5);

impl PodContext {
    /// StartContainer; gives the first process's pid. On failure no process and no cgroup stays.
    pub(super) async fn start_container(
        &self,
        shim: &Shim,
        record: &ContainerRecord,
    ) -> Result<u32, EngineError> {
        let (context, prepared) = (self.clone(), record.clone());
        let prepare = tokio::task::spawn_blocking(move || context.prepare_start(&prepared));
        let (writable, scope) = futures::join!(
            self.trace.watch("start.prepare", prepare),
            self.make_container_scope(shim, record)
        );
        let writable = writable.unwrap_or_else(|error| Err(interrupted("start container", &error)));
        let task = Object::Task {
            container: record.id.clone(),
            cgroup: record.cgroup.clone(),
        };
        let noted = lock(&self.ledger)
            .record([task])
            .map_err(EngineError::from_cause("note what will be made"));
        let writable = match scope.and(noted).and(writable) {
            Ok(writable) => writable,
            Err(error) => {
                self.undo_scope(shim, record.id.as_str(), &record.cgroup).await;
                self.strike(
                    &mut Vec::new(),
                    |object| matches!(object, Object::Task { container, .. } if *container == record.id),
                );
                return Err(error);
            }
        };
        let request = TaskCreate {
            id: record.id.clone(),
            bundle: self.parts.records.bundle(&record.id),
            lowers: writable.lowers,
            writable: (writable.upper, writable.work),
            mapped: self.user_namespace().is_some() && self.parts.host.id_mapped_layers,
            stdin: record.config.stdin,
            terminal: record.config.tty,
            log: record.log_path.clone(),
        };
        let started = self.start_task(shim, request).await;
        if started.is_err() {
            let mut failures = Vec::new();
            match self.end_task(shim, &record.id).await {
                Ok(_) => self.strike(
                    &mut failures,
                    |object| matches!(object, Object::Task { container, .. } if *container == record.id),
                ),
                Err(error) => failures.push(error),
            }
            self.end_scope(record.id.as_str()).await;
            for error in failures {
                tracing::warn!(container = %record.id, %error, "a failed start is undone when the pod is stopped");
            }
        }
        started
    }

    /// What touches disks, which may be slow.
    fn prepare_start(&self, record: &ContainerRecord) -> Result<Writable, EngineError> {
        if let Some(parent) = record.log_path.as_deref().and_then(|path| path.parent()) {
            fs::create_dir_all(parent)
                .map_err(|error| io_failed("make the log directory", parent, &error))?;
        }
        self.parts
            .snapshots
            .rootfs(&record.layers, &record.id)
            .map_err(EngineError::from_cause("find the writable layer"))
    }

    async fn start_task(&self, shim: &Shim, request: TaskCreate) -> Result<u32, EngineError> {
        let id = request.id.clone();
        self.trace
            .step("start.create", shim.create(request))
            .await
            .map_err(EngineError::from_cause("start container"))?;
        self.trace
            .step("start.exec", shim.start(&id))
            .await
            .map_err(EngineError::from_cause("start container"))
    }

    /// RemoveContainer: what runs is killed; processes, cgroup, writable layer, bundle and record go.
    pub(super) async fn remove_container(
        &self,
        shim: Option<Shim>,
        record: &Arc<ContainerRecord>,
        mut ended: watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        let owned = lock(&self.ledger)
            .entries()
            .iter()
            .any(|object| matches!(object, Object::Task { container, .. } if *container == record.id));
        if owned {
            // Without a shim nobody knows what of it still runs: another one takes over first.
            let known = shim.is_some();
            let shim = match shim {
                Some(shim) => shim,
                None => self.reconnect().await?,
            };
            self.trace
                .watch("remove.processes", self.end_task(&shim, &record.id))
                .await?;
            self.end_scope(record.id.as_str()).await;
            if known && record.started_at != UnixNanos::default() {
                // The actor notes the exit from a call of its own: the record stays until it has.
                let _ = timeout(NOTED, ended.wait_for(|ended| *ended)).await;
            }
        }
        self.forget_container(&record.id).await?;
        self.prune(std::iter::once(record.as_ref())).await;
        Ok(())
    }
}
