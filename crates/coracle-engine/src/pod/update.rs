//! UpdateContainerResources: new limits for a container, all of them or none.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use coracle_task::Shim;
use coracle_types::Kind;
use coracle_types::resources::LinuxResources;
use oci_spec::runtime::Spec;
use tokio::time::timeout;

use super::sandbox::{PodContext, interrupted};
use crate::error::EngineError;
use crate::record::{ContainerRecord, io_failed};

const OPERATION: &str = "update container resources";

/// Writing limits takes microseconds, unless memory must be taken back first.
const PATIENCE: Duration = Duration::from_secs(10);

impl PodContext {
    /// Puts the limits in force that `asked` sets, others stay; gives all that are then in force. With a shim
    /// they are written to the container's cgroup, always to its specification. What was written is put back
    /// when a part fails.
    pub(super) async fn update(
        &self,
        shim: Option<Shim>,
        record: &ContainerRecord,
        asked: &LinuxResources,
    ) -> Result<LinuxResources, EngineError> {
        let merged = merged(&record.resources, asked);
        coracle_spec::validate_resources(&merged).map_err(EngineError::from_cause(OPERATION))?;
        if let Some(shim) = &shim
            && let Err(error) = self.write_limits(shim, record, &merged).await
        {
            let before = before(&record.resources, asked);
            if let Err(worse) = self.write_limits(shim, record, &before).await {
                tracing::warn!(container = %record.id, error = %worse, "limits of a failed update may be in force");
            }
            return Err(error);
        }
        let (context, id, limits) = (self.clone(), record.id.clone(), merged.clone());
        let rewrite = tokio::task::spawn_blocking(move || context.rewrite_bundle(&id, &limits));
        let rewritten = rewrite
            .await
            .unwrap_or_else(|error| Err(interrupted(OPERATION, &error)));
        if let (Err(_), Some(shim)) = (&rewritten, &shim) {
            let before = before(&record.resources, asked);
            let _ = self.write_limits(shim, record, &before).await;
        }
        rewritten.map(|()| merged)
    }

    async fn write_limits(
        &self,
        shim: &Shim,
        record: &ContainerRecord,
        limits: &LinuxResources,
    ) -> Result<(), EngineError> {
        let limits = coracle_spec::linux_resources(limits, None, &self.parts.host)
            .map_err(EngineError::from_cause(OPERATION))?;
        // First, because it rounds: the files have the last word.
        self.change_scope(&record.cgroup, &limits).await?;
        let update = timeout(PATIENCE, shim.update(&record.id, &limits));
        match self.trace.watch("update.shim", update).await {
            Ok(updated) => {
                updated.map_err(EngineError::from_cause(OPERATION))?;
                self.tell_systemd(record, &limits).await
            }
            Err(_) => {
                let message = format!(
                    "the limits of container {} were not in force after {} s: look at its memory, which may \
                     have to be taken back first",
                    record.id,
                    PATIENCE.as_secs()
                );
                Err(EngineError::new(Kind::DeadlineExceeded, OPERATION, message))
            }
        }
    }

    /// Of a scope systemd must know the limits, or it writes the old ones when it looks again.
    async fn tell_systemd(
        &self,
        record: &ContainerRecord,
        limits: &oci_spec::runtime::LinuxResources,
    ) -> Result<(), EngineError> {
        let Some((_, scope)) = crate::cgroups::scope_at(&record.cgroup) else {
            return Ok(());
        };
        let properties = crate::cgroups::properties(limits);
        let told = self.parts.systemd.set_properties(&scope, &properties);
        self.trace
            .watch("update.scope", told)
            .await
            .map_err(EngineError::from_cause(OPERATION))
    }

    /// The specification is what the next start and a further shim go by.
    fn rewrite_bundle(
        &self,
        id: &coracle_types::ContainerId,
        limits: &LinuxResources,
    ) -> Result<(), EngineError> {
        let path = self.parts.records.bundle(id).join("config.json");
        let malformed =
            |error| EngineError::new(Kind::Internal, OPERATION, format!("{}: {error}", path.display()));
        let text = fs::read(&path).map_err(|error| io_failed("read", &path, &error))?;
        let mut spec: Spec = serde_json::from_slice(&text).map_err(malformed)?;
        let new = coracle_spec::linux_resources(limits, None, &self.parts.host)
            .map_err(EngineError::from_cause(OPERATION))?;
        let mut linux = spec.linux().clone().unwrap_or_default();
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.set_cpu(new.cpu().clone());
        resources.set_memory(*new.memory());
        resources.set_hugepage_limits(new.hugepage_limits().clone());
        resources.set_unified(new.unified().clone());
        linux.set_resources(Some(resources));
        spec.set_linux(Some(linux));
        let text = serde_json::to_vec(&spec).map_err(malformed)?;
        coracle_store::replace(&path, &text).map_err(|error| io_failed("write", &path, &error))
    }
}

/// All limits after an update. The score of a running process is not changed by one.
fn merged(now: &LinuxResources, asked: &LinuxResources) -> LinuxResources {
    let number = |asked: i64, now: i64| if asked == 0 { now } else { asked };
    let text = |asked: &str, now: &str| if asked.is_empty() { now } else { asked }.to_owned();
    let memory = number(asked.memory_limit_in_bytes, now.memory_limit_in_bytes);
    let mut swap = number(asked.memory_swap_limit_in_bytes, now.memory_swap_limit_in_bytes);
    if asked.memory_swap_limit_in_bytes == 0 && swap > 0 && asked.memory_limit_in_bytes != 0 {
        // It counts both: as much swap as before.
        swap = memory.saturating_add(swap.saturating_sub(now.memory_limit_in_bytes).max(0));
    }
    let mut pages = now.hugepage_limits.clone();
    for limit in &asked.hugepage_limits {
        pages.retain(|known| known.page_size != limit.page_size);
        pages.push(limit.clone());
    }
    let mut unified: BTreeMap<String, String> = now.unified.clone();
    unified.extend(asked.unified.clone());
    LinuxResources {
        cpu_period: number(asked.cpu_period, now.cpu_period),
        cpu_quota: number(asked.cpu_quota, now.cpu_quota),
        cpu_shares: number(asked.cpu_shares, now.cpu_shares),
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: swap,
        oom_score_adj: now.oom_score_adj,
        cpuset_cpus: text(&asked.cpuset_cpus, &now.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems, &now.cpuset_mems),
        hugepage_limits: pages,
        unified,
    }
}

/// The limits that undo an update: what was unset gets the kernel's default, since leaving it out would leave
/// the new value in force.
fn before(was: &LinuxResources, asked: &LinuxResources) -> LinuxResources {
    let number = |asked: i64, was: i64, default: i64| match (asked, was) {
        (0, was) => was,
        (_, 0) => default,
        (_, was) => was,
    };
    LinuxResources {
        cpu_period: number(asked.cpu_period, was.cpu_period, 100_000),
        cpu_quota: number(asked.cpu_quota, was.cpu_quota, -1),
        cpu_shares: number(asked.cpu_shares, was.cpu_shares, 1024),
        memory_limit_in_bytes: number(asked.memory_limit_in_bytes, was.memory_limit_in_bytes, -1),
        memory_swap_limit_in_bytes: number(
            asked.memory_swap_limit_in_bytes,
            was.memory_swap_limit_in_bytes,
            -1,
        ),
        ..was.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(change: impl FnOnce(&mut LinuxResources)) -> LinuxResources {
        let mut resources = LinuxResources::default();
        change(&mut resources);
        resources
    }

    #[test]
    fn what_is_not_asked_stays_and_swap_grows_with_memory() {
        let now = resources(|now| {
            now.cpu_shares = 512;
            now.memory_limit_in_bytes = 100;
            now.memory_swap_limit_in_bytes = 130;
            now.oom_score_adj = 5;
        });
        let asked = resources(|asked| {
            asked.cpu_quota = 7;
            asked.memory_limit_in_bytes = 300;
            asked.oom_score_adj = 9;
        });
        let after = merged(&now, &asked);
        assert_eq!((after.cpu_shares, after.cpu_quota), (512, 7));
        assert_eq!(
            (after.memory_limit_in_bytes, after.memory_swap_limit_in_bytes),
            (300, 330)
        );
        assert_eq!(after.oom_score_adj, 5);
        assert_eq!(merged(&after, &LinuxResources::default()), after);
    }

    #[test]
    fn undoing_sets_what_was_unset_to_the_default() {
        let was = resources(|was| was.cpu_shares = 512);
        let asked = resources(|asked| {
            asked.cpu_shares = 2;
            asked.cpu_quota = 1000;
        });
        let undo = before(&was, &asked);
        assert_eq!((undo.cpu_shares, undo.cpu_quota), (512, -1));
        assert_eq!(
            (undo.cpu_period, undo.memory_limit_in_bytes),
            (0, 0),
            "never touched"
        );
    }
}
