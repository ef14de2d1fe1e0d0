//! What concerns no single pod: readiness, collection of what is left over, and the survey of it all.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use coracle_types::PodSandboxId;
use coracle_types::pod::PortMapping;
use serde_json::{Value, json};

use super::Node;
use crate::cni::chain::{chained, named_config};
use crate::cni::directory::Network;
use crate::cni::{arguments, exec};
use crate::netlink::{Socket, route};
use crate::plugins::Stock;
use crate::{Error, NetworkNotReady, NetworkObject, POD_INTERFACE, PluginError, netns};

/// A plugin that is asked for its STATUS has no longer than this, whatever else it may have.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

impl Node {
    pub(crate) fn gc(&self, valid: &HashSet<PodSandboxId>) -> Result<(), Error> {
        let mut first = Ok(());
        let mut note = |done: Result<(), Error>| match done {
            Err(error) if first.is_ok() => first = Err(error),
            Err(error) => {
                tracing::warn!(error = %chained(&error), "a further part of the collection failed too")
            }
            Ok(()) => {}
        };
        for record in self.records.all()? {
            if !valid.contains(&record.pod.id) {
                let _turn = self.busy.enter(&record.pod.id);
                note(self.undo(&record));
            }
        }
        if let Some(network) = self.current().network()
            && !network.conf.disable_gc
            && network.conf.version.has_status_and_gc()
        {
            for (plugin, stock) in network.conf.plugins.iter().zip(&network.stocks) {
                let collected = match stock {
                    Some(Stock::Bridge(config)) => {
                        let attachments: HashSet<(String, String)> = valid
                            .iter()
                            .map(|pod| (pod.to_string(), POD_INTERFACE.into()))
                            .collect();
                        config.ipam.as_ref().map_or(Ok(()), |ipam| ipam.gc(&attachments))
                    }
                    Some(_) => Ok(()),
                    None => self.ask(network, &plugin.kind, "GC", Some(valid)),
                };
                note(collected.map_err(|source| Error::Plugin {
                    network: network.conf.name.clone(),
                    plugin: plugin.kind.clone(),
                    command: "GC",
                    source: Box::new(source),
                }));
            }
        }
        note(self.gc_links(valid));
        note(self.gc_namespaces(valid));
        first
    }

    fn gc_links(&self, valid: &HashSet<PodSandboxId>) -> Result<(), Error> {
        for (pod, name) in self.links()? {
            if !valid.contains(&pod) {
                self.doomed.push(name);
            }
        }
        Ok(())
    }

    fn gc_namespaces(&self, valid: &HashSet<PodSandboxId>) -> Result<(), Error> {
        for (pod, path) in self.namespaces()? {
            if !valid.contains(&pod) {
                netns::remove(&path)?;
            }
        }
        Ok(())
    }

    /// The host's links that carry this instance's mark.
    fn links(&self) -> Result<Vec<(PodSandboxId, String)>, Error> {
        let failed = |source| Error::Instance {
            operation: "list",
            subject: "links".into(),
            source,
        };
        let mut socket = Socket::route().map_err(failed)?;
        let prefix = format!("{}/", self.config.instance);
        let links = route::link_aliases(&mut socket).map_err(failed)?.into_iter();
        Ok(links
            .filter_map(|(name, alias)| Some((alias.strip_prefix(&prefix)?.parse().ok()?, name)))
            .collect())
    }

    /// Pins of this instance.
    fn namespaces(&self) -> Result<Vec<(PodSandboxId, PathBuf)>, Error> {
        let failed = |source| Error::State {
            operation: "list",
            path: self.config.netns_dir.clone(),
            source,
        };
        let prefix = format!("{}-", self.config.instance);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.config.netns_dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let pod = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix))
                .and_then(|id| id.parse().ok());
            found.extend(pod.map(|pod| (pod, entry.path())));
        }
        Ok(found)
    }

    pub(crate) fn survey(&self) -> Result<Vec<(PodSandboxId, NetworkObject)>, Error> {
        let mut found: Vec<(PodSandboxId, NetworkObject)> = Vec::new();
        found.extend(
            self.links()?
                .into_iter()
                .map(|(pod, name)| (pod, NetworkObject::Link(name))),
        );
        found.extend(
            self.namespaces()?
                .into_iter()
                .map(|(pod, path)| (pod, NetworkObject::Netns(path))),
        );
        for record in self.records.all()? {
            let pod = record.pod.id;
            if record.result.is_some_and(|result| !result.ips.is_empty()) {
                found.push((pod.clone(), NetworkObject::Addresses(record.conf.name)));
            }
            found.push((pod.clone(), NetworkObject::Record(self.records.path(&pod))));
        }
        for (pod, rule) in self.firewall.port_rules() {
            let mapping = PortMapping {
                protocol: rule.protocol,
                container_port: rule.target.port(),
                host_port: rule.port,
                host_ip: rule.address,
            };
            found.push((
                pod,
                NetworkObject::PortMap {
                    table: self.config.firewall_table(),
                    mapping,
                },
            ));
        }
        Ok(found)
    }

    /// STATUS or GC of a program: commands that concern no pod.
    fn ask(
        &self,
        network: &Network,
        kind: &str,
        command: &str,
        valid: Option<&HashSet<PodSandboxId>>,
    ) -> Result<(), PluginError> {
        let programs = self.programs();
        let program = exec::find(kind, &programs.dirs)?;
        let Some(plugin) = network.conf.plugins.iter().find(|plugin| plugin.kind == kind) else {
            return Ok(());
        };
        let mut config = named_config(network, plugin);
        let mut deadline = programs.deadline.min(STATUS_DEADLINE);
        if let Some(valid) = valid {
            deadline = programs.deadline;
            let attachments: Value = valid
                .iter()
                .map(|pod| json!({ "containerID": pod, "ifname": POD_INTERFACE }))
                .collect();
            // The specification's key, and the one that the reference library writes beside it.
            config.insert("cni.dev/valid-attachments".into(), attachments.clone());
            config.insert("cni.dev/attachments".into(), attachments);
        }
        let environment = [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_PATH", arguments::search_path(&programs.dirs)),
        ];
        exec::run(&program, &environment, &Value::Object(config), deadline).map(drop)
    }

    pub(crate) fn status(&self) -> Result<(), NetworkNotReady> {
        let current = self.current();
        let network = current.network().ok_or_else(|| self.not_ready(&current))?;
        let programs = self.programs();
        for (plugin, stock) in network.conf.plugins.iter().zip(&network.stocks) {
            if stock.is_some() {
                continue;
            }
            if exec::find(&plugin.kind, &programs.dirs).is_err() {
                return Err(NetworkNotReady::PluginMissing {
                    network: network.conf.name.clone(),
                    plugin: plugin.kind.clone(),
                    searched: arguments::search_path(&programs.dirs).replace(':', ", "),
                });
            }
            if network.conf.version.has_status_and_gc()
                && let Err(error) = self.ask(network, &plugin.kind, "STATUS", None)
            {
                return Err(NetworkNotReady::PluginNotReady {
                    network: network.conf.name.clone(),
                    plugin: plugin.kind.clone(),
                    reason: chained(&error),
                });
            }
        }
        Ok(())
    }
}
