//! Messages of rtnetlink as pods need them: links, addresses, routes.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Nla as _};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Batch, Socket};
use crate::NetlinkError;

/// A hardware address of Ethernet.
pub(crate) type Mac = [u8; 6];

/// As `ip link` prints it.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    let digits: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

/// What is asked of the kernel about one link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Its index in its namespace.
    pub(crate) index: u32,
    /// Its hardware address.
    pub(crate) mac: Vec<u8>,
    /// Whether it is a bridge.
    pub(crate) is_bridge: bool,
    /// The index of the bridge that it is a port of.
    pub(crate) controller: Option<u32>,
    /// Whether it is up by the administrator's will.
    pub(crate) is_up: bool,
    /// Whether it takes packets for others.
    pub(crate) is_promiscuous: bool,
    /// In bytes.
    pub(crate) mtu: u32,
}

/// Finds a link by name.
pub(crate) fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.into()));
    let found = match socket.query(RouteNetlinkMessage::GetLink(request), false) {
        Err(error) if error.is(Errno::NODEV) => return Ok(None),
        other => other?,
    };
    for message in found {
        if let RouteNetlinkMessage::NewLink(message) = message {
            return Ok(Some(read_link(&message)));
        }
    }
    Err(NetlinkError::Malformed {
        problem: format!("no answer about link {name}"),
    })
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        mac: Vec::new(),
        is_bridge: false,
        controller: None,
        is_up: message.header.flags.contains(LinkFlags::Up),
        is_promiscuous: message.header.flags.contains(LinkFlags::Promisc),
        mtu: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    link
}

/// The names and aliases of all links.
pub(crate) fn link_aliases(socket: &mut Socket) -> Result<Vec<(String, String)>, NetlinkError> {
    let mut found = Vec::new();
    for message in socket.query(RouteNetlinkMessage::GetLink(LinkMessage::default()), true)? {
        let RouteNetlinkMessage::NewLink(message) = message else {
            continue;
        };
        let (mut name, mut alias) = (String::new(), String::new());
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = text,
                LinkAttribute::IfAlias(text) => alias = text,
                _ => {}
            }
        }
        found.push((name, alias));
    }
    Ok(found)
}

/// The addresses of one link.
pub(crate) fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
    let mut found = Vec::new();
    for message in socket.query(RouteNetlinkMessage::GetAddress(AddressMessage::default()), true)? {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        if message.header.index != index {
            continue;
        }
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let any = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        if let Some(address) = local.or(any)
            && let Ok(network) = IpNet::new(address, message.header.prefix_len)
        {
            found.push(network);
        }
    }
    Ok(found)
}

/// Asks for a bridge that is up. Its hardware address is set, since one that is not follows its ports'.
pub(crate) fn add_bridge(batch: &mut Batch, name: &str, mac: Mac, mtu: Option<u32>, promiscuous: bool) {
    let mut message = named(name);
    up(&mut message);
    if promiscuous {
        message.header.flags |= LinkFlags::Promisc;
        message.header.change_mask |= LinkFlags::Promisc;
    }
    message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    batch.route(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL);
}

/// Sets a link that is there up, promiscuous if asked.
pub(crate) fn set_up(batch: &mut Batch, index: u32, promiscuous: bool) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    up(&mut message);
    if promiscuous {
        message.header.flags |= LinkFlags::Promisc;
        message.header.change_mask |= LinkFlags::Promisc;
    }
    batch.route(RouteNetlinkMessage::SetLink(message), 0);
}

/// A veth to be made, the host's end up.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    /// The host's end.
    pub(crate) host_name: &'a str,
    /// Its hardware address.
    pub(crate) host_mac: Mac,
    /// The bridge it becomes a port of.
    pub(crate) bridge: u32,
    /// The pod's end.
    pub(crate) pod_name: &'a str,
    /// Its hardware address.
    pub(crate) pod_mac: Mac,
    /// The pod's network namespace.
    pub(crate) netns: RawFd,
    /// For both ends, in bytes.
    pub(crate) mtu: Option<u32>,
}

/// Asks for a veth; its place in the batch is returned.
pub(crate) fn add_veth(batch: &mut Batch, veth: &Veth<'_>) -> usize {
    // The peer cannot be made up: veth_open refuses (ENOTCONN) until both ends know each other.
    let mut peer = named(veth.pod_name);
    peer.attributes.push(LinkAttribute::NetNsFd(veth.netns));
    peer.attributes
        .push(LinkAttribute::Address(veth.pod_mac.to_vec()));
    peer.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));

    let mut message = named(veth.host_name);
    up(&mut message);
    message
        .attributes
        .push(LinkAttribute::Address(veth.host_mac.to_vec()));
    message.attributes.push(LinkAttribute::Controller(veth.bridge));
    message.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    batch.route(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// How a bridge treats a port.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PortMode {
    /// Packets may go back out of the port they came in by.
    pub(crate) hairpin: bool,
    /// The port reaches only ports that are not isolated.
    pub(crate) isolated: bool,
}

/// Labels the host's end of a veth and sets its mode as a bridge's port.
pub(crate) fn describe_port(batch: &mut Batch, name: &str, alias: &str, mode: PortMode) {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::IfAlias(alias.into()));
    let mut data = Vec::new();
    if mode.hairpin {
        data.push(InfoBridgePort::HairpinMode(true));
    }
    if mode.isolated {
        data.push(InfoBridgePort::Isolated(true));
    }
    if !data.is_empty() {
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(data)),
        ]));
    }
    batch.route(RouteNetlinkMessage::NewLink(message), 0);
}

/// Silences a bridge's port at once; deleting the link takes 18 ms.
///
/// A change of the link's carrier that is still on its way would open a port that is merely
/// disabled, so nothing is sent to it either, and nothing taken from it where the kernel can lock
/// ports (5.18).
pub(crate) fn silence_port(batch: &mut Batch, name: &str) {
    let quiet = vec![
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::MulticastFlood(false),
        InfoBridgePort::BroadcastFlood(false),
        InfoBridgePort::State(BridgePortState::Disabled),
        InfoBridgePort::Flush,
    ];
    for data in [quiet, vec![InfoBridgePort::Locked(true)]] {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(data)),
        ]));
        batch.route(RouteNetlinkMessage::NewLink(message), 0);
    }
}

/// Puts a link into a group, so that many are deleted at the price of one.
pub(crate) fn set_group(batch: &mut Batch, name: &str, group: u32) {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Group(group));
    batch.route(RouteNetlinkMessage::NewLink(message), 0);
}

/// Deletes all links of a group.
pub(crate) fn delete_group(batch: &mut Batch, group: u32) {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    batch.route(RouteNetlinkMessage::DelLink(message), 0);
}

/// Deletes one link.
pub(crate) fn delete_link(batch: &mut Batch, name: &str) {
    batch.route(RouteNetlinkMessage::DelLink(named(name)), 0);
}

/// Gives a link an address. Duplicate address detection is left out: one allocator gives them all.
pub(crate) fn add_address(batch: &mut Batch, index: u32, address: IpNet) -> usize {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message.attributes.push(AddressAttribute::Local(address.addr()));
    match address {
        IpNet::V4(network) if network.prefix_len() < 31 => {
            message
                .attributes
                .push(AddressAttribute::Broadcast(network.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    batch.route(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// A route of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) to: IpNet,
    /// By which neighbour; `None` is directly.
    pub(crate) via: Option<IpAddr>,
    /// Its packets' size in bytes.
    pub(crate) mtu: Option<u32>,
    /// The size of TCP segments that is announced, in bytes.
    pub(crate) advmss: Option<u32>,
    /// Among several the lowest wins.
    pub(crate) priority: Option<u32>,
    /// The routing table; main unless named.
    pub(crate) table: Option<u32>,
    /// The kernel's number of the scope.
    pub(crate) scope: Option<u8>,
}

/// Adds a route by the link.
pub(crate) fn add_route(batch: &mut Batch, index: u32, route: &Route) -> usize {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.addr());
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.table = netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.scope {
        Some(number) => RouteScope::from(number),
        None if route.via.is_none() && route.to.addr().is_ipv4() => RouteScope::Link,
        None => RouteScope::Universe,
    };
    if route.to.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(route.to.network())));
    }
    message
        .attributes
        .extend(route.via.map(|via| RouteAttribute::Gateway(route_address(via))));
    message.attributes.push(RouteAttribute::Oif(index));
    message
        .attributes
        .extend(route.priority.map(RouteAttribute::Priority));
    if let Some(table) = route.table {
        // Numbers above 255 do not fit the header and are read from the attribute.
        message.header.table = u8::try_from(table).unwrap_or(0);
        message.attributes.push(RouteAttribute::Table(table));
    }
    let mut metrics = Vec::new();
    metrics.extend(route.mtu.map(RouteMetric::Mtu));
    metrics.extend(route.advmss.map(RouteMetric::Advmss));
    if !metrics.is_empty() {
        debug_assert!(metrics.iter().all(|metric| metric.value_len() == 4));
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    batch.route(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    message
}

fn up(message: &mut LinkMessage) {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
