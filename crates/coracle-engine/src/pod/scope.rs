//! Scopes of the pod's containers and init, where systemd makes the cgroups.

use coracle_systemd::{Property, Scope, UnitName};
use coracle_task::Shim;
use coracle_types::Kind;
use oci_spec::runtime::LinuxResources;

use super::actor::lock;
use super::sandbox::{PodContext, gather};
use crate::api::CgroupDriver;
use crate::cgroups;
use crate::error::EngineError;
use crate::objects::Object;
use crate::record::ContainerRecord;

impl PodContext {
    /// The pod's cgroup: absolute in each hierarchy.
    pub(super) fn cgroup_parent(&self) -> String {
        cgroups::parent_path(&self.parts.config, &self.pod.config.cgroup_parent)
    }

    /// The cgroup of a container or of the pod's init.
    pub(super) fn cgroup_of(&self, id: &str) -> String {
        cgroups::path_below(&self.parts.config, &self.cgroup_parent(), id)
    }

    /// Has systemd make the scope that `cgroup` is, around a process that stands in for the first one of `id`. The
    /// cgroupfs driver needs none: the shim makes directories.
    ///
    /// # Errors
    /// What the shim or systemd refused; the stand-in is gone then, and what may be left is in the ledger.
    pub(super) async fn make_scope(
        &self,
        step: &'static str,
        shim: &Shim,
        id: &str,
        cgroup: &str,
        properties: Vec<Property>,
    ) -> Result<(), EngineError> {
        if self.parts.config.cgroup_driver != CgroupDriver::Systemd {
            return Ok(());
        }
        let making = self.make(shim, id, cgroup, properties);
        self.trace.step(step, making).await
    }

    async fn make(
        &self,
        shim: &Shim,
        id: &str,
        cgroup: &str,
        properties: Vec<Property>,
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "make the scope";
        let Some((slice, name)) = cgroups::scope_at(cgroup) else {
            let message =
                format!("the cgroup {cgroup} is no scope: it was named while another cgroup.driver was set");
            return Err(EngineError::new(Kind::FailedPrecondition, OPERATION, message));
        };
        let scope = Object::Scope {
            unit: name.to_string(),
        };
        lock(&self.ledger)
            .record([scope])
            .map_err(EngineError::from_cause("note what will be made"))?;
        let pid = shim
            .begin_stand_in(id)
            .await
            .map_err(EngineError::from_cause(OPERATION))?;
        let metadata = &self.pod.config.metadata;
        let scope = Scope {
            name,
            slice,
            description: format!(
                "Coracle container {id} of pod {}/{}",
                metadata.namespace, metadata.name
            ),
            pid,
            properties,
        };
        let made = self.parts.systemd.start_scope(&scope).await;
        if made.is_err() {
            // It goes with its shim at the latest.
            let _ = shim.end_stand_in(id).await;
        }
        made.map_err(EngineError::from_cause(OPERATION))
    }

    /// As [`PodContext::make_scope`], for a container with its limits.
    pub(super) async fn make_container_scope(
        &self,
        shim: &Shim,
        record: &ContainerRecord,
    ) -> Result<(), EngineError> {
        let properties = match coracle_spec::linux_resources(&record.resources, None, &self.parts.host) {
            Ok(resources) => cgroups::properties(&resources),
            // Refused at the container's creation, if they are wrong.
            Err(_) => Vec::new(),
        };
        let making = self.make_scope(
            "start.scope",
            shim,
            record.id.as_str(),
            &record.cgroup,
            properties,
        );
        making.await
    }

    /// Tells systemd of new limits, if the container is in a scope: it would undo them some time.
    ///
    /// # Errors
    /// What systemd refuses.
    pub(super) async fn change_scope(
        &self,
        cgroup: &str,
        limits: &LinuxResources,
    ) -> Result<(), EngineError> {
        let properties = cgroups::properties(limits);
        match cgroups::scope_at(cgroup) {
            Some((_, name)) if !properties.is_empty() => self
                .parts
                .systemd
                .set_properties(&name, &properties)
                .await
                .map_err(EngineError::from_cause("change the scope's limits")),
            _ => Ok(()),
        }
    }

    /// For a scope whose container will not be made.
    pub(super) async fn undo_scope(&self, shim: &Shim, id: &str, cgroup: &str) {
        if cgroups::scope_at(cgroup).is_some() {
            // It goes with its shim at the latest.
            let _ = shim.end_stand_in(id).await;
            self.end_scope(id).await;
        }
    }

    /// Has systemd put away the scope of a container, once nothing runs in it. What cannot be put away now stays in
    /// the ledger until the pod goes.
    pub(super) async fn end_scope(&self, id: &str) {
        if let Err(error) = self.end_scopes(|unit| cgroups::id_in(unit) == id).await {
            tracing::warn!(pod = %self.pod.id, %error, "a scope is put away when the pod is");
        }
    }

    /// Has systemd put away all noted scopes that `which` picks.
    pub(super) async fn end_scopes(&self, which: impl Fn(&str) -> bool) -> Result<(), EngineError> {
        let units: Vec<String> = lock(&self.ledger)
            .entries()
            .iter()
            .filter_map(|object| match object {
                Object::Scope { unit } if which(unit) => Some(unit.clone()),
                _ => None,
            })
            .collect();
        let ends = units.into_iter().map(|unit| async move {
            let stopped = match unit.parse::<UnitName>() {
                Ok(name) => self.parts.systemd.stop(&name).await,
                // No name of ours: the ledger was damaged, and there is nothing of it.
                Err(_) => Ok(()),
            };
            stopped.map_err(EngineError::from_cause("put away a scope"))?;
            let mut failures = Vec::new();
            self.strike(
                &mut failures,
                |object| matches!(object, Object::Scope { unit: struck } if *struck == unit),
            );
            gather("put away a scope", &failures)
        });
        let ended = futures::future::join_all(ends).await;
        let failures: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
        gather("put away scopes", &failures)
    }
}
