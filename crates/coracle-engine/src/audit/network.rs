//! What audit finds of pods' networks.

use std::collections::HashSet;

use coracle_network::NetworkObject;
use coracle_types::PodSandboxId;

use super::finding;
use crate::api::{Difference, Finding};
use crate::engine::Engine;
use crate::error::chain;

impl Engine {
    /// Attachments of pods that are not as they were made, as their network's plugins see it.
    pub(super) async fn missing_networks(&self, attached: &[PodSandboxId], findings: &mut Vec<Finding>) {
        for pod in attached {
            if let Err(error) = self.parts.networks.check(pod).await {
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
