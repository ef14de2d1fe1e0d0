//! The node's networks as blocking operations; [`Networks`](crate::Networks) is their async face.

mod busy;
mod oversight;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coracle_types::PodSandboxId;
use coracle_types::format::Format;
use ipnet::IpNet;

use crate::cni::chain::{Chain, chained};
use crate::cni::configuration::NetworkConf;
use crate::cni::directory::{Loaded, Network, load};
use crate::cni::record::{Record, Records};
use crate::cni::result::CniResult;
use crate::firewall::{Firewall, Needs};
use crate::links::Doomed;
use crate::plugins::{Stock, bridge, host_local, portmap};
use crate::{
    AddressPreference, AttachedInterface, Attachment, Error, NetworkNotReady, NetworkObject, NetworksConfig,
    POD_INTERFACE, PluginError, PodNetwork, links, names, netns,
};

use busy::Busy;

/// All that the networks of a node know.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: NetworksConfig,
    programs: RwLock<Arc<Programs>>,
    pub(crate) firewall: Firewall,
    pub(crate) memory: bridge::Memory,
    pub(crate) doomed: Doomed,
    records: Records,
    loaded: RwLock<Arc<Loaded>>,
    fallback: RwLock<Option<Arc<Network>>>,
    pod_cidrs: RwLock<Vec<IpNet>>,
    attachments: RwLock<HashMap<PodSandboxId, Attachment>>,
    busy: Busy,
}

/// How plugins' programs are found and how long they may take; may change while pods run.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) deadline: Duration,
}

/// The network that pods are attached to now: the configured one or the default.
enum Current {
    Configured(Arc<Loaded>),
    Default(Arc<Network>),
}

impl Current {
    fn network(&self) -> Option<&Network> {
        match self {
            Self::Configured(loaded) => loaded.network.as_ref(),
            Self::Default(network) => Some(network),
        }
    }
}

impl Node {
    /// Reads what earlier runs left and brings the kernel's rules in step with it.
    pub(crate) fn start(config: NetworksConfig) -> Result<Self, Error> {
        netns::prepare_directory(&config.netns_dir)?;
        let records = Records::open(&config.state_dir)?;
        let node = Self {
            firewall: Firewall::new(config.firewall_table()),
            memory: bridge::Memory::default(),
            doomed: Doomed::new(),
            records,
            loaded: RwLock::new(Arc::new(load(&config.conf_dir))),
            fallback: RwLock::default(),
            pod_cidrs: RwLock::default(),
            attachments: RwLock::default(),
            busy: Busy::default(),
            programs: RwLock::new(Arc::new(Programs {
                dirs: config.bin_dirs.clone(),
                deadline: config.plugin_deadline,
            })),
            config,
        };
        node.set_pod_cidrs(Vec::new())?;
        let mut needs = Needs::default();
        for record in node.records.all()? {
            note_needs(&record, &mut needs);
            if let Some(attachment) = record.attachment {
                write(&node.attachments).insert(record.pod.id, attachment);
            }
        }
        if let Err(error) = node.firewall.restore(needs) {
            // Pods that need no rule can be attached all the same.
            tracing::error!(error = %chained(&error), "port maps and masquerading of running pods are not restored");
        }
        Ok(node)
    }

    pub(crate) fn programs(&self) -> Arc<Programs> {
        Arc::clone(&read(&self.programs))
    }

    pub(crate) fn set_programs(&self, programs: Programs) {
        *write(&self.programs) = Arc::new(programs);
    }

    /// Reads the directory of configurations again.
    pub(crate) fn reload(&self) {
        let fresh = load(&self.config.conf_dir);
        let mut loaded = write(&self.loaded);
        let name = |loaded: &Loaded| loaded.network.as_ref().map(|network| network.conf.clone());
        if name(&loaded) != name(&fresh) || loaded.problems != fresh.problems {
            for problem in &fresh.problems {
                tracing::warn!(%problem, "a CNI configuration is passed over");
            }
            let network = fresh.network.as_ref().map(|network| network.conf.name.as_str());
            tracing::info!(network, "the CNI configuration changed");
        }
        *loaded = Arc::new(fresh);
    }

    pub(crate) fn set_pod_cidrs(&self, cidrs: Vec<IpNet>) -> Result<(), Error> {
        if let Some(wanted) = &self.config.default_network {
            let conf = NetworkConf::default_network(&self.config, wanted, &cidrs);
            let network = Network::new(conf).map_err(|problem| Error::Plugin {
                network: self.config.instance.to_string(),
                plugin: "bridge".into(),
                command: "configuration",
                source: Box::new(PluginError::Config {
                    field: "default network".into(),
                    problem,
                }),
            })?;
            *write(&self.fallback) = Some(Arc::new(network));
        }
        *write(&self.pod_cidrs) = cidrs;
        Ok(())
    }

    /// The network for new pods; a broken configuration does not bring the default one back.
    fn current(&self) -> Current {
        let loaded = read(&self.loaded).clone();
        match &*read(&self.fallback) {
            Some(network) if loaded.network.is_none() && loaded.problems.is_empty() => {
                Current::Default(network.clone())
            }
            _ => Current::Configured(loaded),
        }
    }

    fn not_ready(&self, current: &Current) -> NetworkNotReady {
        let dir = self.config.conf_dir.clone();
        match current {
            Current::Configured(loaded) if !loaded.problems.is_empty() => NetworkNotReady::NoneValid {
                dir,
                problems: loaded.problems.join("; "),
            },
            _ => NetworkNotReady::NoConfiguration { dir },
        }
    }

    pub(crate) fn netns_path(&self, pod: &PodSandboxId) -> PathBuf {
        self.config
            .netns_dir
            .join(format!("{}-{pod}", self.config.instance))
    }

    /// What marks the pod's link on the host.
    pub(crate) fn alias(&self, pod: &PodSandboxId) -> String {
        format!("{}/{pod}", self.config.instance)
    }

    pub(crate) fn attach(&self, pod: PodNetwork) -> Result<Attachment, Error> {
        pod.validate()?;
        let _turn = self.busy.enter(&pod.id);
        let current = self.current();
        let network = current.network().ok_or_else(|| self.not_ready(&current))?;
        match self.records.get(&pod.id)? {
            Some(Record {
                attachment: Some(attachment),
                ..
            }) => {
                return Err(Error::AlreadyAttached {
                    pod: pod.id.to_string(),
                    network: attachment.network,
                });
            }
            // Whoever attached it died half-way.
            Some(begun) => self.undo(&begun)?,
            None => {}
        }
        let link = names::host_link(&pod.id);
        self.doomed.hurry(&link).map_err(|source| Error::Instance {
            operation: "delete link",
            subject: link,
            source,
        })?;
        if !netns::is_pinned(&pod.netns) {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(Error::Netns {
                operation: "enter",
                path: pod.netns,
                source,
            });
        }
        let mut record = Record {
            format: Format,
            in_process: network.stocks.iter().map(Option::is_some).collect(),
            conf: network.conf.clone(),
            pod_cidrs: read(&self.pod_cidrs).clone(),
            result: None,
            attachment: None,
            pod,
        };
        self.records.put(&record)?;
        let chain = Chain {
            node: self,
            network,
            in_process: &record.in_process,
            pod: &record.pod,
            pod_cidrs: &record.pod_cidrs,
        };
        let result = match chain.add() {
            Ok(result) => result,
            Err(failed) => {
                // What could not be undone is undone by the next attach or detach.
                if failed.is_undone {
                    self.records.remove(&record.pod.id)?;
                }
                return Err(failed.error);
            }
        };
        let attachment = self.describe(&network.conf.name, &result);
        record.result = Some(result);
        record.attachment = Some(attachment.clone());
        if let Err(error) = self.records.put(&record) {
            if let Err(undoing) = self.undo(&record) {
                tracing::warn!(error = %chained(&undoing), pod = %record.pod.id, "an unrecorded attachment is not wholly undone");
            }
            return Err(error);
        }
        write(&self.attachments).insert(record.pod.id, attachment.clone());
        Ok(attachment)
    }

    /// DEL by the record, and the record's end.
    fn undo(&self, record: &Record) -> Result<(), Error> {
        let network = match Network::new(record.conf.clone()) {
            Ok(network) => network,
            // It was valid once; the programs get to see it as it is.
            Err(_) => Network {
                stocks: vec![None; record.conf.plugins.len()],
                conf: record.conf.clone(),
            },
        };
        let chain = Chain {
            node: self,
            network: &network,
            in_process: &record.in_process,
            pod: &record.pod,
            pod_cidrs: &record.pod_cidrs,
        };
        chain.delete(record.result.as_ref())?;
        self.records.remove(&record.pod.id)?;
        write(&self.attachments).remove(&record.pod.id);
        Ok(())
    }

    pub(crate) fn detach(&self, pod: &PodNetwork) -> Result<(), Error> {
        pod.validate()?;
        let _turn = self.busy.enter(&pod.id);
        if let Some(record) = self.records.get(&pod.id)? {
            return self.undo(&record);
        }
        let cidrs = read(&self.pod_cidrs).clone();
        let current = self.current();
        let told = match current.network() {
            Some(network) => {
                let chain = Chain {
                    node: self,
                    network,
                    in_process: &[],
                    pod,
                    pod_cidrs: &cidrs,
                };
                chain.delete(None)
            }
            None => Ok(()),
        };
        let swept = self.sweep(&pod.id, &current);
        // A record that could not be read.
        self.records.remove(&pod.id)?;
        write(&self.attachments).remove(&pod.id);
        told.and(swept)
    }

    /// Frees the pod's link, ports and addresses without knowing its network: in every directory of
    /// reservations there is.
    fn sweep(&self, pod: &PodSandboxId, current: &Current) -> Result<(), Error> {
        let failed = |plugin: &str, source: PluginError| Error::Plugin {
            network: "any".into(),
            plugin: plugin.into(),
            command: "DEL",
            source: Box::new(source),
        };
        self.drop_link(pod).map_err(|source| failed("bridge", source))?;
        self.firewall
            .unmap_ports(pod)
            .map_err(|source| failed("portmap", source))?;
        let mut roots: HashSet<PathBuf> = HashSet::from([host_local::DATA_DIR.into()]);
        roots.extend(
            self.config
                .default_network
                .iter()
                .map(|network| network.data_dir.clone()),
        );
        for stock in current
            .network()
            .into_iter()
            .flat_map(|network| network.stocks.iter().flatten())
        {
            if let Stock::Bridge(config) = stock
                && let Some(root) = config.ipam.as_ref().and_then(|ipam| ipam.dir.parent())
            {
                roots.insert(root.into());
            }
        }
        for root in roots {
            for entry in fs::read_dir(root).into_iter().flatten().flatten() {
                let dir = entry.path();
                // Only what host-local made has its lock.
                if dir.join("lock").is_file() {
                    host_local::release_in(&dir, pod, POD_INTERFACE, None)
                        .map_err(|source| failed("host-local", source))?;
                }
            }
        }
        Ok(())
    }

    /// Silences the pod's link and has it deleted later.
    pub(crate) fn drop_link(&self, pod: &PodSandboxId) -> Result<(), PluginError> {
        let name = names::host_link(pod);
        if bridge::silence(&name)? {
            self.doomed.push(name);
        }
        Ok(())
    }

    pub(crate) fn attachment(&self, pod: &PodSandboxId) -> Option<Attachment> {
        read(&self.attachments).get(pod).cloned()
    }

    pub(crate) fn check(&self, pod: &PodSandboxId) -> Result<(), Error> {
        let _turn = self.busy.enter(pod);
        let not_attached = || Error::NotAttached { pod: pod.to_string() };
        let record = self.records.get(pod)?.ok_or_else(not_attached)?;
        let result = record.result.as_ref().ok_or_else(not_attached)?;
        let network = Network::new(record.conf.clone()).map_err(|problem| Error::Plugin {
            network: record.conf.name.clone(),
            plugin: String::new(),
            command: "CHECK",
            source: Box::new(PluginError::Config {
                field: "plugins".into(),
                problem,
            }),
        })?;
        let chain = Chain {
            node: self,
            network: &network,
            in_process: &record.in_process,
            pod: &record.pod,
            pod_cidrs: &record.pod_cidrs,
        };
        chain.check(result)
    }

    pub(crate) fn intents(&self, pod: &PodNetwork) -> Vec<NetworkObject> {
        let mut objects = vec![
            NetworkObject::Netns(pod.netns.clone()),
            NetworkObject::Record(self.records.path(&pod.id)),
        ];
        let current = self.current();
        let Some(network) = current.network() else {
            return objects;
        };
        for stock in network.stocks.iter().flatten() {
            match stock {
                Stock::Bridge(_) => {
                    objects.push(NetworkObject::Link(names::host_link(&pod.id)));
                    objects.push(NetworkObject::Addresses(network.conf.name.clone()));
                }
                Stock::Portmap => {
                    let mapped = pod.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
                    objects.extend(mapped.map(|mapping| NetworkObject::PortMap {
                        table: self.config.firewall_table(),
                        mapping: mapping.clone(),
                    }));
                }
                Stock::Loopback => {}
            }
        }
        objects
    }

    pub(crate) fn remove_instance_objects(&self) -> Result<(), Error> {
        let table = self.firewall.remove().map_err(|source| Error::Instance {
            operation: "remove nft table",
            subject: self.config.firewall_table(),
            source,
        });
        let bridge = match &self.config.default_network {
            None => Ok(()),
            Some(_) => links::delete(&[self.config.default_bridge()]).map_err(|source| Error::Instance {
                operation: "remove bridge",
                subject: self.config.default_bridge(),
                source,
            }),
        };
        table.and(bridge)
    }

    fn describe(&self, network: &str, result: &CniResult) -> Attachment {
        let mut ips: Vec<IpAddr> = Vec::new();
        for ip in result.pod_ips().map(|ip| ip.address.addr()) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        match self.config.address_preference {
            AddressPreference::Ipv4 => ips.sort_by_key(IpAddr::is_ipv6),
            AddressPreference::Ipv6 => ips.sort_by_key(IpAddr::is_ipv4),
            AddressPreference::AsGiven => {}
        }
        let interfaces = result.interfaces.iter().map(|interface| AttachedInterface {
            name: interface.name.clone(),
            mac: interface.mac.clone(),
            sandbox: (!interface.sandbox.is_empty()).then(|| Path::new(&interface.sandbox).into()),
        });
        Attachment {
            network: network.into(),
            ips,
            interfaces: interfaces.collect(),
            dns: result.dns.clone(),
        }
    }
}

/// What a recorded attachment has in the nft table.
fn note_needs(record: &Record, needs: &mut Needs) {
    let (Ok(network), Some(result)) = (Network::new(record.conf.clone()), &record.result) else {
        return;
    };
    let plugins = network
        .conf
        .plugins
        .iter()
        .zip(&network.stocks)
        .zip(&record.in_process);
    for ((plugin, stock), _) in plugins.filter(|(_, in_process)| **in_process) {
        match stock {
            Some(Stock::Bridge(config)) if config.masquerades() => {
                needs
                    .masquerade
                    .extend(result.pod_ips().map(|ip| ip.address.trunc()));
            }
            Some(Stock::Portmap) if plugin.has_capability("portMappings") => {
                let rules = portmap::rules(&record.pod, result).unwrap_or_default();
                if !rules.is_empty() {
                    needs.hairpin.extend(portmap::networks(result));
                    needs.ports.insert(record.pod.id.clone(), rules);
                }
            }
            _ => {}
        }
    }
}

/// Values behind these locks are replaced whole, so a panic elsewhere leaves them sound.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
