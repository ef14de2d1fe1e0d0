//! The plugin `bridge`: a veth between the pod and a bridge of the host.

mod config;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use rustix::io::Errno;

use super::host_local;
use crate::cni::result::{CniResult, Interface, IpConfig, RouteConfig};
use crate::firewall::Firewall;
use crate::netlink::route::{self, Link, Mac, PortMode, Route, Veth};
use crate::netlink::{Batch, Socket};
use crate::{NetlinkError, POD_INTERFACE, PluginError, PodNetwork, names, netns};

pub(crate) use config::Config;
use config::Written;

/// What ADD needs beside the configuration.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) pod: &'a PodNetwork,
    /// Marks the host's end of the veth.
    pub(crate) alias: &'a str,
    /// The capability `ipRanges`.
    pub(crate) ip_ranges: &'a [IpNet],
    pub(crate) firewall: &'a Firewall,
    pub(crate) memory: &'a Memory,
}

/// What of the host is known to be as it must be.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Addresses of bridges, by the bridge's index, that were checked against the others there.
    gateways: BTreeSet<(u32, IpNet)>,
    forwards: BTreeSet<&'static str>,
}

/// ADD: nothing is left behind on failure, save the bridge.
pub(crate) fn add(config: &Config, around: &Surroundings<'_>) -> Result<CniResult, PluginError> {
    let pod = around.pod;
    let lease = match &config.ipam {
        Some(ipam) => ipam.add(&pod.id, POD_INTERFACE, around.ip_ranges)?,
        None => host_local::Lease::default(),
    };
    let taken: Vec<IpAddr> = lease.ips.iter().map(|ip| ip.address.addr()).collect();
    connect(config, around, lease).inspect_err(|_| {
        if let Some(ipam) = &config.ipam
            && let Err(error) = ipam.delete(&pod.id, POD_INTERFACE, Some(&taken))
        {
            tracing::warn!(%error, pod = %pod.id, "addresses of a failed attachment stay reserved");
        }
    })
}

fn connect(
    config: &Config,
    around: &Surroundings<'_>,
    mut lease: host_local::Lease,
) -> Result<CniResult, PluginError> {
    let (written, pod) = (&config.written, around.pod);
    if written.is_gateway {
        for ip in &mut lease.ips {
            ip.gateway.get_or_insert(first_of(ip.address));
        }
    }
    let mut host = Socket::route().map_err(|source| refused("open", "a socket", source))?;
    let bridge = ensure_bridge(&mut host, written)?;
    let netns = netns::open(&pod.netns).map_err(|source| PluginError::File {
        operation: "open network namespace",
        path: pod.netns.clone(),
        source,
    })?;
    let mut batch = Batch::default();
    let gateways = ensure_gateways(&mut host, &mut batch, &bridge, config, &lease.ips, around.memory)?;
    let host_name = names::host_link(&pod.id);
    let veth = Veth {
        host_name: &host_name,
        host_mac: mac_of(&[host_name.as_bytes(), pod.id.as_str().as_bytes()]),
        bridge: bridge.index,
        pod_name: POD_INTERFACE,
        pod_mac: pod_mac(pod, &lease.ips),
        netns: netns.as_raw_fd(),
        mtu: (written.mtu != 0).then_some(written.mtu),
    };
    let veth_place = route::add_veth(&mut batch, &veth);
    let mode = PortMode {
        hairpin: written.hairpin_mode,
        isolated: written.port_isolation,
    };
    route::describe_port(&mut batch, &host_name, around.alias, mode);
    let made = |source| refused("make", &format!("veth {host_name} on {}", written.bridge), source);
    let tolerated = |place: usize, error: &NetlinkError| place < gateways && error.is(Errno::EXIST);
    if let Err((place, source)) = host.send(&batch).map_err(made)?.first_except(tolerated) {
        // A link of that name that was there before is not ours to remove.
        if place != veth_place || !source.is(Errno::EXIST) {
            remove_now(&mut host, &host_name);
        }
        return Err(made(source));
    }

    let routes = routes_of(written, &lease);
    let finished = configure_pod(&netns, &lease.ips, &routes).and_then(|()| {
        if written.ip_masq {
            let networks: Vec<IpNet> = lease.ips.iter().map(|ip| ip.address.trunc()).collect();
            around.firewall.masquerade(&networks)?;
        }
        Ok(())
    });
    if let Err(error) = finished {
        remove_now(&mut host, &host_name);
        return Err(error);
    }
    Ok(describe(config, &veth, &bridge, pod, lease))
}

/// The result, in the order in which the program lists interfaces.
fn describe(
    config: &Config,
    veth: &Veth<'_>,
    bridge: &Link,
    pod: &PodNetwork,
    lease: host_local::Lease,
) -> CniResult {
    let interface = |name: &str, mac: &[u8], mtu: Option<u32>| Interface {
        name: name.into(),
        mac: route::mac_text(mac),
        mtu,
        ..Interface::default()
    };
    let mut inside = interface(veth.pod_name, &veth.pod_mac, veth.mtu);
    inside.sandbox = pod.netns.display().to_string();
    CniResult {
        interfaces: vec![
            interface(
                config.bridge(),
                &bridge.mac,
                Some(bridge.mtu).filter(|mtu| *mtu != 0),
            ),
            interface(veth.host_name, &veth.host_mac, veth.mtu),
            inside,
        ],
        ips: lease
            .ips
            .into_iter()
            .map(|ip| IpConfig {
                interface: Some(2),
                ..ip
            })
            .collect(),
        routes: lease.routes,
        dns: lease.dns,
    }
}

fn ensure_bridge(host: &mut Socket, written: &Written) -> Result<Link, PluginError> {
    let name = &written.bridge;
    let failed = |source| refused("make bridge", name, source);
    let mut bridge = route::link(host, name).map_err(failed)?;
    if bridge.is_none() {
        let mut batch = Batch::default();
        let mtu = (written.mtu != 0).then_some(written.mtu);
        route::add_bridge(
            &mut batch,
            name,
            mac_of(&[name.as_bytes(), &std::process::id().to_ne_bytes()]),
            mtu,
            written.promisc_mode,
        );
        // Another pod's start may have been quicker.
        host.send(&batch)
            .and_then(|refusals| {
                refusals
                    .first_except(|_, error| error.is(Errno::EXIST))
                    .map_err(|(_, error)| error)
            })
            .map_err(failed)?;
        // The routes of this link are ours, whatever its ports announce. Absent without IPv6.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
        bridge = route::link(host, name).map_err(failed)?;
    }
    let Some(bridge) = bridge.filter(|link| link.is_bridge) else {
        return Err(PluginError::Config {
            field: "bridge".into(),
            problem: format!("{name:?} is an interface that is no bridge: remove it or name another"),
        });
    };
    if !bridge.is_up || (written.promisc_mode && !bridge.is_promiscuous) {
        let mut batch = Batch::default();
        route::set_up(&mut batch, bridge.index, written.promisc_mode);
        host.send_all(&batch)
            .map_err(|source| refused("set up bridge", name, source))?;
    }
    Ok(bridge)
}

/// Writes the bridge's addresses into the batch and gives their number; turns forwarding on.
fn ensure_gateways(
    host: &mut Socket,
    batch: &mut Batch,
    bridge: &Link,
    config: &Config,
    ips: &[IpConfig],
    memory: &Memory,
) -> Result<usize, PluginError> {
    if !config.written.is_gateway {
        return Ok(0);
    }
    // Only whole entries are added, so a panic elsewhere leaves it sound.
    let mut known = memory.known.lock().unwrap_or_else(PoisonError::into_inner);
    let mut count = 0;
    for ip in ips {
        let Some(gateway) = ip.gateway else { continue };
        let address =
            IpNet::new(gateway, ip.address.prefix_len()).expect("the prefix length of its own family");
        if !known.gateways.contains(&(bridge.index, address)) {
            let there = route::addresses(host, bridge.index)
                .map_err(|source| refused("list addresses of", config.bridge(), source))?;
            refuse_strangers(config.bridge(), address, &there)?;
            known.gateways.insert((bridge.index, address));
        }
        // Sent each time and refused as present: somebody may have taken it away.
        route::add_address(batch, bridge.index, address);
        count += 1;
        let switch = if gateway.is_ipv4() {
            "/proc/sys/net/ipv4/ip_forward"
        } else {
            "/proc/sys/net/ipv6/conf/all/forwarding"
        };
        if !known.forwards.contains(switch) {
            if fs::read(switch).is_ok_and(|text| text.first() != Some(&b'1')) {
                fs::write(switch, "1").map_err(|source| PluginError::File {
                    operation: "write",
                    path: switch.into(),
                    source,
                })?;
            }
            known.forwards.insert(switch);
        }
    }
    Ok(count)
}

/// As the program does without `forceAddress`: a bridge has one IPv4 address, and IPv6 ones of different networks.
fn refuse_strangers(bridge: &str, wanted: IpNet, there: &[IpNet]) -> Result<(), PluginError> {
    let stranger = there.iter().find(|other| {
        other.addr().is_ipv4() == wanted.addr().is_ipv4()
            && **other != wanted
            && (wanted.addr().is_ipv4() || other.contains(&wanted.addr()) || wanted.contains(&other.addr()))
    });
    match stranger {
        Some(other) => Err(PluginError::Config {
            field: "bridge".into(),
            problem: format!(
                "{bridge} has the address {other}, which is not {wanted}: remove it, or name another bridge"
            ),
        }),
        None => Ok(()),
    }
}

/// The configured routes with their gateways, and the default ones if the bridge is to be the way out.
fn routes_of(written: &Written, lease: &host_local::Lease) -> Vec<Route> {
    let gateway = |is_ipv4: bool| {
        lease
            .ips
            .iter()
            .filter_map(|ip| ip.gateway)
            .find(|gateway| gateway.is_ipv4() == is_ipv4)
    };
    let has_family = |is_ipv4: bool| lease.ips.iter().any(|ip| ip.address.addr().is_ipv4() == is_ipv4);
    let mut wanted: Vec<RouteConfig> = lease.routes.clone();
    for (is_ipv4, text) in [(true, "0.0.0.0/0"), (false, "::/0")] {
        let default: IpNet = text.parse().expect("a constant network");
        if written.is_default_gateway
            && has_family(is_ipv4)
            && !wanted.iter().any(|route| route.dst == default)
        {
            wanted.push(RouteConfig {
                dst: default,
                gw: None,
                mtu: None,
                advmss: None,
                priority: None,
                table: None,
                scope: None,
            });
        }
    }
    wanted
        .into_iter()
        .map(|route| Route {
            to: route.dst.trunc(),
            via: route.gw.or_else(|| gateway(route.dst.addr().is_ipv4())),
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope,
        })
        .collect()
}

/// Sets the pod's link up and gives it its addresses and routes.
fn configure_pod(netns: &OwnedFd, ips: &[IpConfig], routes: &[Route]) -> Result<(), PluginError> {
    let failed = |source| refused("configure", POD_INTERFACE, source);
    let mut socket = netns::route_socket(netns.as_fd()).map_err(failed)?;
    let index = pod_link(&mut socket)?.index;
    let mut batch = Batch::default();
    route::set_up(&mut batch, index, false);
    ips.iter().for_each(|ip| {
        route::add_address(&mut batch, index, ip.address);
    });
    routes.iter().for_each(|route| {
        route::add_route(&mut batch, index, route);
    });
    let mut refusals = socket.send(&batch).map_err(failed)?;
    let has_ipv6 = ips.iter().any(|ip| !ip.address.addr().is_ipv4());
    if has_ipv6 && refusals.0.iter().any(|(_, error)| error.is(Errno::ACCESS)) {
        // The host's default for new namespaces is IPv6 off; a pod with an IPv6 address wants it on.
        netns::inside(netns.as_fd(), || {
            fs::write(
                format!("/proc/sys/net/ipv6/conf/{POD_INTERFACE}/disable_ipv6"),
                "0",
            )
        })
        .map_err(failed)?
        .map_err(|source| PluginError::File {
            operation: "write in the pod",
            path: format!("/proc/sys/net/ipv6/conf/{POD_INTERFACE}/disable_ipv6").into(),
            source,
        })?;
        refusals = socket.send(&batch).map_err(failed)?;
        refusals.0.retain(|(_, error)| !error.is(Errno::EXIST));
    }
    refusals.first_except(|_, _| false).map_err(|(place, source)| {
        // The first message of the batch set the link up.
        let subject = match place.checked_sub(1) {
            None => format!("the flag UP to {POD_INTERFACE}"),
            Some(place) => match ips.get(place) {
                Some(ip) => format!("address {} to {POD_INTERFACE}", ip.address),
                None => routes.get(place - ips.len()).map_or_else(String::new, |route| {
                    format!("route to {} by {POD_INTERFACE}", route.to)
                }),
            },
        };
        refused("add", &subject, source)
    })
}

fn pod_link(socket: &mut Socket) -> Result<Link, PluginError> {
    route::link(socket, POD_INTERFACE)
        .map_err(|source| refused("find", POD_INTERFACE, source))?
        .ok_or_else(|| PluginError::Missing {
            missing: format!("{POD_INTERFACE} of the pod"),
        })
}

/// DEL of the link: it carries nothing from now on; true when it is there and has to be deleted.
pub(crate) fn silence(host_name: &str) -> Result<bool, PluginError> {
    let mut host = Socket::route().map_err(|source| refused("open", "a socket", source))?;
    let mut batch = Batch::default();
    route::silence_port(&mut batch, host_name);
    match host
        .send(&batch)
        .map_err(|source| refused("silence", host_name, source))?
        .0
        .first()
    {
        Some((_, error)) if error.is(Errno::NODEV) => Ok(false),
        // No longer a bridge's port, or down: nothing to silence.
        _ => Ok(true),
    }
}

/// CHECK.
pub(crate) fn check(config: &Config, pod: &PodNetwork, result: &CniResult) -> Result<(), PluginError> {
    let missing = |what: String| PluginError::Missing { missing: what };
    let ips: Vec<IpNet> = result.pod_ips().map(|ip| ip.address).collect();
    if let Some(ipam) = &config.ipam {
        let own: Vec<IpAddr> = ips.iter().map(IpNet::addr).collect();
        ipam.check(&pod.id, POD_INTERFACE, &own)?;
    }
    let mut host = Socket::route().map_err(|source| refused("open", "a socket", source))?;
    let mut find = |name: &str| {
        route::link(&mut host, name)
            .map_err(|source| refused("find", name, source))?
            .ok_or_else(|| missing(format!("link {name}")))
    };
    let (bridge, port) = (find(config.bridge())?, find(&names::host_link(&pod.id))?);
    if port.controller != Some(bridge.index) {
        return Err(missing(format!(
            "the port {} of bridge {}",
            names::host_link(&pod.id),
            config.bridge()
        )));
    }
    let netns = netns::open(&pod.netns).map_err(|source| PluginError::File {
        operation: "open network namespace",
        path: pod.netns.clone(),
        source,
    })?;
    let mut inside =
        netns::route_socket(netns.as_fd()).map_err(|source| refused("enter", "the pod", source))?;
    let link = pod_link(&mut inside)?;
    if !link.is_up {
        return Err(missing(format!("{POD_INTERFACE} of the pod, set up,")));
    }
    let there = route::addresses(&mut inside, link.index)
        .map_err(|source| refused("list addresses of", POD_INTERFACE, source))?;
    match ips.iter().find(|ip| !there.contains(ip)) {
        Some(ip) => Err(missing(format!("address {ip} of {POD_INTERFACE}"))),
        None => Ok(()),
    }
}

fn remove_now(host: &mut Socket, name: &str) {
    let mut batch = Batch::default();
    route::delete_link(&mut batch, name);
    if let Ok(refusals) = host.send(&batch)
        && let Err((_, error)) = refusals.first_except(|_, error| error.is(Errno::NODEV))
    {
        tracing::warn!(%error, link = name, "the link of a failed attachment stays");
    }
}

fn refused(operation: &'static str, subject: &str, source: NetlinkError) -> PluginError {
    PluginError::Netlink {
        operation,
        subject: subject.into(),
        source,
    }
}

/// The network's first address.
fn first_of(address: IpNet) -> IpAddr {
    match address {
        IpNet::V4(network) => Ipv4Addr::from_bits(network.network().to_bits().saturating_add(1)).into(),
        IpNet::V6(network) => Ipv6Addr::from_bits(network.network().to_bits().saturating_add(1)).into(),
    }
}

/// An address given anew meets neighbours that remember its last hardware address for minutes; so
/// the hardware address follows from it.
fn pod_mac(pod: &PodNetwork, ips: &[IpConfig]) -> Mac {
    let mut addresses = ips.iter().map(|ip| ip.address.addr());
    match addresses.clone().find_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    }) {
        Some([a, b, c, d]) => [0x0a, 0x58, a, b, c, d],
        None => match addresses.next() {
            Some(IpAddr::V6(address)) => mac_of(&[&address.octets()]),
            _ => mac_of(&[pod.id.as_str().as_bytes()]),
        },
    }
}

/// A locally administered unicast address that differs when the parts do.
fn mac_of(parts: &[&[u8]]) -> Mac {
    let hash = names::fnv1a(&parts.concat()).to_be_bytes();
    [
        (hash[0] & 0xfc) | 0x02,
        hash[1],
        hash[2] ^ hash[6],
        hash[3] ^ hash[7],
        hash[4],
        hash[5],
    ]
}
