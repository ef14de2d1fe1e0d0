//! Whether the runtime can do its work, and what its handlers offer.

use std::collections::BTreeMap;

use coracle_types::Kind;
use serde_json::json;

use crate::api::{Condition, Detail, HandlerFeatures, IdPrefix, NodeStatus};
use crate::engine::Engine;
use crate::error::{EngineError, chain};

impl Engine {
    /// RuntimeReady, NetworkReady and the handlers.
    pub async fn status(&self, detail: Detail) -> NodeStatus {
        let network = self.parts.networks.status().await;
        let config = &self.parts.config;
        let conditions = vec![
            Condition {
                name: "RuntimeReady",
                holds: true,
                reason: String::new(),
                message: String::new(),
            },
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
            user_namespaces: self.parts.host.id_mapped_layers,
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
        }
        if detail == Detail::Verbose {
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
