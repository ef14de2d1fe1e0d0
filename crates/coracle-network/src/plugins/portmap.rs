//! The plugin `portmap`: ports of the host lead into the pod.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use coracle_types::pod::Protocol;
use ipnet::IpNet;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::{Map, Value, json};

use crate::cni::result::CniResult;
use crate::firewall::{Firewall, PortRule};
use crate::{PluginError, PodNetwork, names};

/// Whether the configuration has only what is done here: translation by nftables with masquerading
/// where the answer would not come back by the host.
pub(crate) fn takes(config: &Map<String, Value>) -> bool {
    super::knows(config, &["snat", "masqAll", "backend"])
        && super::is_unset(config, "snat", &json!(true))
        && super::is_unset(config, "masqAll", &json!(false))
        && super::is_unset(config, "backend", &json!("nftables"))
}

/// The port maps of a pod with these addresses.
pub(crate) fn rules(pod: &PodNetwork, result: &CniResult) -> Result<Vec<PortRule>, PluginError> {
    let refuse = |problem: String| PluginError::Config {
        field: "port_mappings".into(),
        problem,
    };
    let ips: Vec<IpAddr> = result.pod_ips().map(|ip| ip.address.addr()).collect();
    let mut rules: Vec<PortRule> = Vec::new();
    for mapping in pod.port_mappings.iter().filter(|mapping| mapping.host_port != 0) {
        if mapping.container_port == 0 {
            return Err(refuse(format!(
                "host port {} leads to port 0 of the pod",
                mapping.host_port
            )));
        }
        for is_ipv4 in [true, false] {
            let Some(ip) = ips.iter().find(|ip| ip.is_ipv4() == is_ipv4) else {
                continue;
            };
            let address = match mapping.host_ip {
                Some(address) if address.is_ipv4() != is_ipv4 => continue,
                Some(address) if address.is_unspecified() => None,
                other => other,
            };
            let rule = PortRule {
                protocol: mapping.protocol,
                address,
                port: mapping.host_port,
                target: SocketAddr::new(*ip, mapping.container_port),
            };
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    Ok(rules)
}

/// The networks in which the pod's neighbours are.
pub(crate) fn networks(result: &CniResult) -> Vec<IpNet> {
    result.pod_ips().map(|ip| ip.address.trunc()).collect()
}

/// ADD.
pub(crate) fn add(firewall: &Firewall, pod: &PodNetwork, result: &CniResult) -> Result<(), PluginError> {
    let rules = rules(pod, result)?;
    if rules.is_empty() {
        return Ok(());
    }
    refuse_ports_of_the_node(&rules)?;
    let host_link = result
        .interfaces
        .iter()
        .find(|interface| interface.sandbox.is_empty());
    if let Some(link) = host_link.filter(|link| names::is_link_name(&link.name))
        && rules.iter().any(|rule| rule.target.is_ipv4())
    {
        route_loopback(&link.name)?;
    }
    firewall.map_ports(&pod.id, &rules, &networks(result))
}

/// A rule would silently take the port away from a process that listens on it.
fn refuse_ports_of_the_node(rules: &[PortRule]) -> Result<(), PluginError> {
    for rule in rules {
        let any: IpAddr = match rule.target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if is_taken(
            rule.protocol,
            SocketAddr::new(rule.address.unwrap_or(any), rule.port),
        ) {
            return Err(PluginError::PortInUse {
                protocol: rule.protocol,
                port: rule.port,
                address: rule.address,
                holder: "a process of this node".into(),
            });
        }
    }
    Ok(())
}

/// Whether somebody listens there. Of what cannot be asked (no such address, SCTP) nobody does.
fn is_taken(protocol: Protocol, address: SocketAddr) -> bool {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return false,
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let Ok(socket) = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None) else {
        return false;
    };
    if kind == SocketType::STREAM {
        // Connections that have ended but for their last packets are nobody's; whoever listens still collides.
        let _ = rustix::net::sockopt::set_socket_reuseaddr(&socket, true);
    }
    rustix::net::bind(&socket, &address) == Err(rustix::io::Errno::ADDRINUSE)
}

/// Lets packets from 127.0.0.0/8 leave by the link, so that a port of 127.0.0.1 leads to a pod.
fn route_loopback(link: &str) -> Result<(), PluginError> {
    let path = PathBuf::from("/proc/sys/net/ipv4/conf")
        .join(link)
        .join("route_localnet");
    if fs::read(&path).is_ok_and(|text| text.first() == Some(&b'1')) {
        return Ok(());
    }
    fs::write(&path, "1").map_err(|source| PluginError::File {
        operation: "write",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coracle_types::PodSandboxId;
    use coracle_types::pod::PortMapping;

    use super::*;
    use crate::cni::version::Version;

    fn pod(mappings: &[(u16, u16, Option<&str>)]) -> PodNetwork {
        PodNetwork {
            id: PodSandboxId::generate(),
            name: String::new(),
            namespace: String::new(),
            uid: String::new(),
            netns: "/run/netns/x".into(),
            port_mappings: mappings
                .iter()
                .map(|(host_port, container_port, ip)| PortMapping {
                    protocol: Protocol::Tcp,
                    container_port: *container_port,
                    host_port: *host_port,
                    host_ip: ip.map(|ip| ip.parse().unwrap()),
                })
                .collect(),
            annotations: BTreeMap::new(),
            dns: None,
            cgroup_path: String::new(),
        }
    }

    fn dual_stack() -> CniResult {
        let value = json!({ "ips": [{ "address": "10.0.0.2/24" }, { "address": "fd00::2/64" }] });
        CniResult::read(value, Version::V1_0_0).unwrap()
    }

    #[test]
    fn a_mapping_is_one_rule_a_family_that_it_means() {
        let count = |ip| rules(&pod(&[(80, 8080, ip)]), &dual_stack()).unwrap().len();
        assert_eq!(count(None), 2);
        assert_eq!(count(Some("0.0.0.0")), 1);
        assert_eq!(count(Some("::")), 1);
        assert_eq!(count(Some("10.0.0.1")), 1);
        assert!(rules(&pod(&[(80, 0, None)]), &dual_stack()).is_err());
        assert!(rules(&pod(&[(0, 80, None)]), &dual_stack()).unwrap().is_empty());
    }

    #[test]
    fn options_of_the_program_alone_are_left_to_it() {
        let taken = |value: Value| takes(value.as_object().unwrap());
        assert!(taken(
            json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } })
        ));
        assert!(!taken(json!({ "snat": false })));
        assert!(!taken(json!({ "backend": "iptables" })));
        assert!(!taken(json!({ "conditionsV4": ["-d", "10.0.0.0/8"] })));
    }
}
