//! Runs a network's plugins over one pod, in process or by exec: each is told the result of the one before.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::arguments;
use super::configuration::PluginConf;
use super::directory::Network;
use super::exec::{self, printable};
use super::result::CniResult;
use crate::node::Node;
use crate::plugins::{Stock, bridge, loopback, portmap};
use crate::{Error, POD_INTERFACE, PluginError, PodNetwork, netns};

/// One pod and the network it is (to be) attached to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) node: &'a Node,
    pub(crate) network: &'a Network,
    /// Which plugins ran in process when the pod was attached; beyond its end, as the network has it.
    pub(crate) in_process: &'a [bool],
    pub(crate) pod: &'a PodNetwork,
    /// The capability `ipRanges`.
    pub(crate) pod_cidrs: &'a [IpNet],
}

/// Why ADD failed, and whether all it had done was undone.
#[derive(Debug)]
pub(crate) struct FailedAdd {
    pub(crate) error: Error,
    pub(crate) is_undone: bool,
}

impl<'a> Chain<'a> {
    /// ADD of all plugins. When one fails, it and those before it are told DEL in reverse.
    pub(crate) fn add(&self) -> Result<CniResult, FailedAdd> {
        let mut result = None;
        for (place, plugin) in self.network.conf.plugins.iter().enumerate() {
            match self.add_one(place, plugin, result.as_ref()) {
                Ok(next) => result = Some(next),
                Err(source) => {
                    let error = self.failed(plugin, "ADD", source);
                    let undone = self.delete_first(place + 1, result.as_ref());
                    if let Err(undoing) = &undone {
                        tracing::warn!(error = %chained(undoing), pod = %self.pod.id, "a failed attachment is not wholly undone");
                    }
                    return Err(FailedAdd {
                        error,
                        is_undone: undone.is_ok(),
                    });
                }
            }
        }
        Ok(result.unwrap_or_default())
    }

    fn add_one(
        &self,
        place: usize,
        plugin: &PluginConf,
        before: Option<&CniResult>,
    ) -> Result<CniResult, PluginError> {
        match self.stock(place) {
            Some(Stock::Bridge(config)) => {
                let given = arguments::runtime_config(plugin, self.pod, self.pod_cidrs)?;
                let ip_ranges = if given.contains_key("ipRanges") {
                    self.pod_cidrs
                } else {
                    &[]
                };
                let alias = self.node.alias(&self.pod.id);
                let around = bridge::Surroundings {
                    pod: self.pod,
                    alias: &alias,
                    ip_ranges,
                    firewall: &self.node.firewall,
                    memory: &self.node.memory,
                };
                let mut result = bridge::add(config, &around)?;
                self.configured_dns(plugin, &mut result);
                Ok(result)
            }
            Some(Stock::Loopback) => {
                loopback::add(&self.pod.netns)?;
                Ok(before
                    .cloned()
                    .unwrap_or_else(|| loopback::result(&self.pod.netns)))
            }
            Some(Stock::Portmap) => {
                let before = before.ok_or_else(|| PluginError::Config {
                    field: "plugins".into(),
                    problem: "portmap must come behind a plugin that gives addresses".into(),
                })?;
                if plugin.has_capability("portMappings") {
                    portmap::add(&self.node.firewall, self.pod, before)?;
                }
                Ok(before.clone())
            }
            None => {
                let output = self.execute(plugin, "ADD", before)?;
                let garbage = |problem: String| PluginError::Garbage {
                    problem,
                    output: printable(&String::from_utf8_lossy(&output[..output.len().min(200)])),
                };
                let value =
                    serde_json::from_slice(&output).map_err(|error| garbage(format!("not JSON: {error}")))?;
                CniResult::read(value, self.network.conf.version).map_err(garbage)
            }
        }
    }

    /// `dns` of the bridge's configuration goes before that of its addresses.
    fn configured_dns(&self, plugin: &PluginConf, result: &mut CniResult) {
        if let Some(dns) = plugin
            .config
            .get("dns")
            .filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty()))
        {
            let spelled = CniResult::read(json!({ "dns": dns }), self.network.conf.version);
            if let Ok(spelled) = spelled {
                result.dns = spelled.dns;
            }
        }
    }

    /// DEL of all plugins in reverse; each is tried, the first failure is given.
    pub(crate) fn delete(&self, result: Option<&CniResult>) -> Result<(), Error> {
        self.delete_first(self.network.conf.plugins.len(), result)
    }

    fn delete_first(&self, count: usize, result: Option<&CniResult>) -> Result<(), Error> {
        let mut first = Ok(());
        for (place, plugin) in self.network.conf.plugins.iter().enumerate().take(count).rev() {
            if let Err(source) = self.delete_one(place, plugin, result) {
                let error = self.failed(plugin, "DEL", source);
                if first.is_ok() {
                    first = Err(error);
                } else {
                    tracing::warn!(error = %chained(&error), pod = %self.pod.id, "a further plugin failed too");
                }
            }
        }
        first
    }

    fn delete_one(
        &self,
        place: usize,
        plugin: &PluginConf,
        result: Option<&CniResult>,
    ) -> Result<(), PluginError> {
        match self.stock(place) {
            Some(Stock::Bridge(config)) => {
                let link = self.node.drop_link(&self.pod.id);
                if let Some(ipam) = &config.ipam {
                    let known: Vec<_> = result
                        .into_iter()
                        .flat_map(CniResult::pod_ips)
                        .map(|ip| ip.address.addr())
                        .collect();
                    ipam.delete(&self.pod.id, POD_INTERFACE, (!known.is_empty()).then_some(&known))?;
                }
                link
            }
            Some(Stock::Loopback) => Ok(()),
            Some(Stock::Portmap) => self.node.firewall.unmap_ports(&self.pod.id),
            None => {
                // Before 0.4.0 DEL was not told the result.
                let before = result.filter(|_| self.network.conf.version.has_check());
                self.execute(plugin, "DEL", before).map(drop)
            }
        }
    }

    /// CHECK of all plugins, as far as the network's version has it and its configuration wants it.
    pub(crate) fn check(&self, result: &CniResult) -> Result<(), Error> {
        if self.network.conf.disable_check || !self.network.conf.version.has_check() {
            return Ok(());
        }
        for (place, plugin) in self.network.conf.plugins.iter().enumerate() {
            let checked = match self.stock(place) {
                Some(Stock::Bridge(config)) => bridge::check(config, self.pod, result),
                Some(Stock::Loopback) => Ok(()),
                Some(Stock::Portmap) if plugin.has_capability("portMappings") => {
                    portmap::rules(self.pod, result)
                        .and_then(|rules| self.node.firewall.check(&self.pod.id, &rules))
                }
                Some(Stock::Portmap) => Ok(()),
                None => self.execute(plugin, "CHECK", Some(result)).map(drop),
            };
            checked.map_err(|source| self.failed(plugin, "CHECK", source))?;
        }
        Ok(())
    }

    fn execute(
        &self,
        plugin: &PluginConf,
        command: &str,
        before: Option<&CniResult>,
    ) -> Result<Vec<u8>, PluginError> {
        let programs = self.node.programs();
        let program = exec::find(&plugin.kind, &programs.dirs)?;
        let mut config = named_config(self.network, plugin);
        let given = arguments::runtime_config(plugin, self.pod, self.pod_cidrs)?;
        if !given.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(given));
        }
        if let Some(before) = before {
            config.insert("prevResult".into(), before.write(self.network.conf.version));
        }
        let netns = if netns::is_pinned(&self.pod.netns) {
            self.pod.netns.display().to_string()
        } else {
            String::new()
        };
        let mut environment = arguments::environment(self.pod, &netns);
        environment.push(("CNI_COMMAND", command.into()));
        environment.push(("CNI_PATH", arguments::search_path(&programs.dirs)));
        exec::run(&program, &environment, &Value::Object(config), programs.deadline)
    }

    fn stock(&self, place: usize) -> Option<&'a Stock> {
        let stock = self.network.stocks.get(place)?.as_ref();
        stock.filter(|_| self.in_process.get(place).copied().unwrap_or(true))
    }

    fn failed(&self, plugin: &PluginConf, command: &'static str, source: PluginError) -> Error {
        Error::Plugin {
            network: self.network.conf.name.clone(),
            plugin: plugin.kind.clone(),
            command,
            source: Box::new(source),
        }
    }
}

/// The plugin's configuration with what the list says for all of them.
pub(crate) fn named_config(network: &Network, plugin: &PluginConf) -> Map<String, Value> {
    let mut config = plugin.config.clone();
    for key in [
        "cniVersions",
        "disableCheck",
        "disableGC",
        "loadOnlyInlinedPlugins",
    ] {
        config.remove(key);
    }
    config.insert("cniVersion".into(), json!(network.conf.version));
    config.insert("name".into(), json!(network.conf.name));
    config
}

/// An error with its causes, for a log line.
pub(crate) fn chained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
