//! The plugin `host-local`: addresses from ranges of the node's own, kept in files.

pub(crate) mod range;
pub(crate) mod store;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use coracle_types::PodSandboxId;
use coracle_types::pod::DnsConfig;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::PluginError;
use crate::cni::result::{IpConfig, RouteConfig};
use range::{Range, RangeConfig, RangeSet};
use store::Store;

/// Where the plugin keeps reservations unless told otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/cni/networks";

const KEYS: &[&str] = &[
    "type",
    "name",
    "routes",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "dataDir",
    "resolvConf",
];

/// The plugin's part of a network's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The directory of this network's reservations.
    pub(crate) dir: PathBuf,
    sets: Vec<RangeSet>,
    routes: Vec<RouteConfig>,
    resolv_conf: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    ranges: Vec<Vec<RangeConfig>>,
    routes: Vec<RouteConfig>,
    data_dir: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
}

/// What a pod gets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease {
    pub(crate) ips: Vec<IpConfig>,
    pub(crate) routes: Vec<RouteConfig>,
    pub(crate) dns: DnsConfig,
}

impl Config {
    /// Reads the `ipam` object; `None` when it has an option that is not known here.
    pub(crate) fn read(ipam: &Map<String, Value>, network: &str) -> Result<Option<Self>, PluginError> {
        if !ipam.keys().all(|key| KEYS.contains(&key.as_str())) {
            return Ok(None);
        }
        let bad = |error: serde_json::Error| PluginError::Config {
            field: "ipam".into(),
            problem: error.to_string(),
        };
        let written: Written = serde_json::from_value(Value::Object(ipam.clone())).map_err(bad)?;
        let mut sets = Vec::new();
        if ipam.contains_key("subnet") {
            let flat: RangeConfig = serde_json::from_value(Value::Object(ipam.clone())).map_err(bad)?;
            sets.push(RangeSet::new(&[flat])?);
        }
        for set in &written.ranges {
            sets.push(RangeSet::new(set)?);
        }
        let data_dir = written
            .data_dir
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(DATA_DIR.into());
        let config = Self {
            dir: data_dir.join(network),
            sets,
            routes: written.routes,
            resolv_conf: written.resolv_conf.filter(|path| !path.as_os_str().is_empty()),
        };
        config.check_overlaps(&config.sets)?;
        Ok(Some(config))
    }

    /// The configured range sets after those of the capability `ipRanges`, as the plugin orders them.
    fn sets_with(&self, pod_ranges: &[IpNet]) -> Result<Vec<RangeSet>, PluginError> {
        let mut sets = Vec::new();
        for subnet in pod_ranges {
            sets.push(RangeSet::new(&[RangeConfig::whole(*subnet)])?);
        }
        sets.extend(self.sets.iter().cloned());
        self.check_overlaps(&sets)?;
        if sets.is_empty() {
            return Err(PluginError::Config {
                field: "ipam.ranges".into(),
                problem: "no IP ranges specified: give `ranges` or `subnet`".into(),
            });
        }
        Ok(sets)
    }

    fn check_overlaps(&self, sets: &[RangeSet]) -> Result<(), PluginError> {
        for (place, set) in sets.iter().enumerate() {
            if let Some(other) = sets[..place].iter().find(|other| other.overlaps(set)) {
                return Err(PluginError::Config {
                    field: "ipam.ranges".into(),
                    problem: format!("{set} and {other} overlap"),
                });
            }
        }
        Ok(())
    }

    /// Reserves an address of each range set for the pod, or none.
    pub(crate) fn add(
        &self,
        pod: &PodSandboxId,
        link: &str,
        pod_ranges: &[IpNet],
    ) -> Result<Lease, PluginError> {
        let sets = self.sets_with(pod_ranges)?;
        let dns = match &self.resolv_conf {
            Some(path) => read_resolv_conf(path)?,
            None => DnsConfig::default(),
        };
        let store = Store::lock(&self.dir)?;
        let mut ips = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            match reserve(&store, set, number, pod, link) {
                Ok((address, range)) => ips.push(IpConfig {
                    interface: None,
                    address: IpNet::new(address, range.subnet.prefix_len())
                        .expect("the range's own prefix length"),
                    gateway: Some(range.gateway),
                }),
                Err(error) => {
                    let taken: Vec<IpAddr> = ips.iter().map(|ip| ip.address.addr()).collect();
                    store.release(&taken, pod, link)?;
                    return Err(error);
                }
            }
        }
        Ok(Lease {
            ips,
            routes: self.routes.clone(),
            dns,
        })
    }

    /// Frees the pod's addresses. With `known` only those files are looked at; a scan reads them all.
    pub(crate) fn delete(
        &self,
        pod: &PodSandboxId,
        link: &str,
        known: Option<&[IpAddr]>,
    ) -> Result<(), PluginError> {
        release_in(&self.dir, pod, link, known)
    }

    /// Whether these addresses are reserved for the pod.
    pub(crate) fn check(&self, pod: &PodSandboxId, link: &str, ips: &[IpAddr]) -> Result<(), PluginError> {
        let store = Store::lock(&self.dir)?;
        for ip in ips {
            if !store.holds(*ip, pod, link)? {
                return Err(PluginError::Missing {
                    missing: format!("the reservation of {ip} for pod {pod} in {}", self.dir.display()),
                });
            }
        }
        Ok(())
    }

    /// Frees every address that is not of one of these pods; a GC of CNI 1.1.
    pub(crate) fn gc(&self, valid: &HashSet<(String, String)>) -> Result<(), PluginError> {
        if self.dir.is_dir() {
            Store::lock(&self.dir)?.retain(valid)
        } else {
            Ok(())
        }
    }
}

/// Frees the pod's addresses in one network's directory, which may be gone.
pub(crate) fn release_in(
    dir: &Path,
    pod: &PodSandboxId,
    link: &str,
    known: Option<&[IpAddr]>,
) -> Result<(), PluginError> {
    if !dir.is_dir() {
        return Ok(());
    }
    let store = Store::lock(dir)?;
    match known {
        Some(ips) => store.release(ips, pod, link),
        None => store.release_all(pod, link),
    }
}

fn reserve<'a>(
    store: &Store,
    set: &'a RangeSet,
    number: usize,
    pod: &PodSandboxId,
    link: &str,
) -> Result<(IpAddr, &'a Range), PluginError> {
    for (address, range) in set.candidates(store.last_reserved(number)) {
        if store.reserve(address, number, pod, link)? {
            return Ok((address, range));
        }
    }
    Err(PluginError::Exhausted {
        ranges: set.to_string(),
    })
}

/// Name servers of a file in the form of resolv.conf(5), as the plugin reads it.
fn read_resolv_conf(path: &Path) -> Result<DnsConfig, PluginError> {
    use std::io::Read;
    let failed = |source| PluginError::File {
        operation: "read",
        path: path.into(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(64 * 1024)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let mut dns = DnsConfig::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.searches.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    Ok(dns)
}
