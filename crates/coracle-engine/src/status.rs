//! Whether the runtime can do its work, and what its handlers offer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coracle_store::{StoreError, Trouble};
use coracle_task::Keeperless;
use coracle_types::Kind;
use serde_json::json;

use crate::api::{Condition, Detail, HandlerFeatures, IdPrefix, NodeStatus};
use crate::engine::Engine;
use crate::error::{EngineError, chain};

/// So long may something be wrong until the node says so: a kubelet starts nothing on a node that is not ready, and
/// in the end its pods are taken away, so it is not to say so of what passes.
const LASTING: Duration = Duration::from_secs(60);

/// Whether pods can be started, by what is known without asking anybody. A full disk is none of it: pods go on, and the
/// kubelet sees it for itself.
fn runtime_ready(keeper: Option<Keeperless>, store: Option<Trouble>) -> Condition {
    let lasts = |since: &Instant| since.elapsed() >= LASTING;
    let keeper = keeper.filter(|keeper| lasts(&keeper.since));
    let is_full = |error: &StoreError| matches!(error, StoreError::Commit { full: true, .. });
    let store = store.filter(|trouble| lasts(&trouble.since) && !is_full(&trouble.error));
    let (reason, message) = match (keeper, store) {
        (Some(keeper), _) => (
            "NoKeeper",
            format!("no pod can be started, since no keeper can: {}", keeper.why),
        ),
        (None, Some(trouble)) => (
            "StateNotWritten",
            format!(
                "what is known of pods is not on the disk: {}; pods that run go on, and a restart of the node would lose new ones",
                chain(&trouble.error)
            ),
        ),
        (None, None) => ("", String::new()),
    };
    Condition {
        name: "RuntimeReady",
        holds: reason.is_empty(),
        reason: reason.to_owned(),
        message,
    }
}

impl Engine {
    /// RuntimeReady, NetworkReady and the handlers.
    pub async fn status(&self, detail: Detail) -> NodeStatus {
        let network = self.parts.networks.status().await;
        let config = &self.parts.config;
        let conditions = vec![
            runtime_ready(self.parts.shims.keeperless(), self.parts.records.trouble()),
            Condition {
                name: "NetworkReady",
                holds: network.is_ok(),
                reason: network
                    .as_ref()
                    .err()
                    .map(|_| "NetworkPluginNotReady".to_owned())
                    .unwrap_or_default(),
                message: network
                    .as_ref()
                    .err()
                    .map(|error| chain(error))
                    .unwrap_or_default(),
            },
        ];
        let features = |name: &coracle_types::RuntimeHandlerName| HandlerFeatures {
            name: name.clone(),
            recursive_read_only_mounts: self.parts.host.recursive_read_only,
            user_namespaces: self.parts.host.id_mapped_layers && self.parts.host.id_mapped_tmpfs,
        };
        let mut info = BTreeMap::new();
        if detail == Detail::Verbose {
            let text = json!({
                "instance": config.instance,
                "root": config.root,
                "state": config.state,
                "cgroupDriver": config.cgroup_driver,
                "handlers": config.handlers.keys().map(|name| &name.0).collect::<Vec<_>>(),
            });
            info.insert("config".to_owned(), text.to_string());
            let quarantined: BTreeMap<_, _> = self
                .parts
                .index
                .pods(&IdPrefix::default())
                .iter()
                .map(|handle| handle.view())
                .filter_map(|view| Some((view.pod.id.to_string(), view.pod.quarantine.clone()?)))
                .collect();
            if !quarantined.is_empty() {
                info.insert("quarantine".to_owned(), json!(quarantined).to_string());
            }
            let paused: Vec<_> = self
                .paused_registry_hosts()
                .into_iter()
                .map(|host| {
                    json!({
                        "host": host.host,
                        "state": if host.half_open { "half-open" } else { "open" },
                        "secondsLeft": host.left.as_secs(),
                        "reason": host.reason,
                        "requestsPassedOver": host.passed_over,
                    })
                })
                .collect();
            if !paused.is_empty() {
                info.insert("registryHostsPaused".to_owned(), json!(paused).to_string());
            }
        }
        NodeStatus {
            conditions,
            handlers: config.handlers.keys().map(features).collect(),
            info,
        }
    }

    /// The pod address ranges that the cluster gives this node: one, or several with commas between.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no range.
    pub fn update_pod_cidr(&self, cidrs: &str) -> Result<(), EngineError> {
        let ranges = cidrs
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(|text| {
                text.parse().map_err(|_| {
                    let message = format!("pod_cidr {text:?} is no address range: write it as 10.1.0.0/24");
                    EngineError::new(Kind::InvalidArgument, "update runtime config", message)
                })
            });
        let ranges = ranges.collect::<Result<_, _>>()?;
        self.parts
            .networks
            .set_pod_cidrs(ranges)
            .map_err(EngineError::from_cause("update runtime config"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(seconds: u64) -> Instant {
        Instant::now()
            .checked_sub(Duration::from_secs(seconds))
            .expect("the machine is up longer")
    }

    fn keeperless(seconds: u64) -> Option<Keeperless> {
        Some(Keeperless {
            since: ago(seconds),
            why: "cannot execute".to_owned(),
        })
    }

    fn trouble(seconds: u64, full: bool) -> Option<Trouble> {
        Some(Trouble {
            since: ago(seconds),
            error: StoreError::Commit {
                full,
                reason: "the disk is broken".to_owned(),
            },
        })
    }

    #[test]
    fn a_node_is_not_ready_while_it_cannot_start_pods_and_for_nothing_less() {
        let ready = runtime_ready(None, None);
        assert!(ready.holds && ready.reason.is_empty() && ready.message.is_empty());
        assert!(
            runtime_ready(keeperless(50), trouble(50, false)).holds,
            "it may pass"
        );
        assert!(runtime_ready(None, trouble(600, true)).holds, "the disk is full");
        let broken = runtime_ready(None, trouble(61, false));
        assert!(!broken.holds && broken.reason == "StateNotWritten");
        assert!(
            broken.message.contains("the disk is broken"),
            "{}",
            broken.message
        );
        let without = runtime_ready(keeperless(61), trouble(61, false));
        assert!(!without.holds && without.reason == "NoKeeper");
        assert!(without.message.contains("cannot execute"), "{}", without.message);
    }
}
