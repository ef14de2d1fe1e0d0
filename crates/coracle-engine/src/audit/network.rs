//! What audit finds of pods' networks.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_network::NetworkObject;
use coracle_store::Ledger;
use coracle_types::PodSandboxId;

use super::finding;
use crate::api::{Difference, Finding};
use crate::engine::Engine;
use crate::error::chain;
use crate::objects::Object;
use crate::pod::View;
use crate::policy::PodPhase;

impl Engine {
    /// Attachments of ready pods that are not as they were made, as their network's plugins see it.
    pub(super) async fn missing_networks(&self, views: &[Arc<View>], findings: &mut Vec<Finding>) {
        for view in views.iter().filter(|view| view.pod.phase == PodPhase::Ready) {
            let pod = &view.pod.id;
            let ledger = Ledger::<Object>::open(&self.parts.records.pod_dir(pod).join("ledger"));
            let attached = ledger.is_ok_and(|ledger| {
                let mut entries = ledger.entries().iter();
                entries.any(|object| matches!(object, Object::Attachment { .. }))
            });
            if attached && let Err(error) = self.parts.networks.check(pod).await {
                let problem = chain(&error);
                findings.push(finding(
                    Difference::Missing,
                    "network attachment",
                    &problem,
                    pod.as_str(),
                ));
            }
        }
    }

    /// Links, namespaces, addresses, port maps and records of pods that nobody knows.
    pub(super) async fn leaked_networks(&self, pods: &HashSet<&PodSandboxId>, findings: &mut Vec<Finding>) {
        match self.parts.networks.survey().await {
            Ok(objects) => findings.extend(objects.iter().filter(|(pod, _)| !pods.contains(pod)).map(
                |(pod, object)| {
                    finding(
                        Difference::Leaked,
                        word(object),
                        &object.to_string(),
                        pod.as_str(),
                    )
                },
            )),
            Err(error) => {
                let problem = format!("the node's network cannot be surveyed: {}", chain(&error));
                findings.push(finding(Difference::Missing, "network", &problem, ""));
            }
        }
    }
}

fn word(object: &NetworkObject) -> &'static str {
    match object {
        NetworkObject::Netns(_) => "netns",
        NetworkObject::Link(_) => "link",
        NetworkObject::Addresses(_) => "addresses",
        NetworkObject::PortMap { .. } => "port map",
        NetworkObject::Record(_) => "network attachment",
    }
}
