//! The table's chains, maps and rules as transactions.
//!
//! ```text
//! table inet <instance>-pods {
//!   map ports4, ports6         { protocol . port            : pod's address . port }
//!   map host-ports4, -ports6   { protocol . address . port  : pod's address . port }
//!   chain guard        hook prerouting, raw     drop what claims to be for 127.0.0.0/8 from outside
//!   chain prerouting   hook prerouting, dstnat  to an address of the host's own: jump ports
//!   chain output       hook output, dstnat      likewise
//!   chain ports        not for ::1; dnat by host-ports, then by ports
//!   chain postrouting  hook postrouting, srcnat masquerade: translated from loopback or from the
//!                      pod's own network; from a masqueraded network to outside of it
//! }
//! ```
//! The guard is needed because a port map is reached through 127.0.0.1 only with `route_localnet`
//! on the bridge, and with that alone a pod could reach what listens on the host's loopback (class
//! CVE-2020-8558).

use coracle_types::pod::Protocol;
use ipnet::IpNet;

use super::expressions::{Attributes, Rule, address_bytes};
use super::{Needs, PortRule};
use crate::netlink::Batch;

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;

const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;

const SET_MAP: u32 = 8;

/// nft's own numbers of types, six bits each in a concatenation, so that `nft list` can print the maps.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// So many elements stay below the 64 KiB of one attribute.
const ELEMENTS_A_MESSAGE: usize = 400;

/// Writes transactions for one table.
#[derive(Debug)]
pub(super) struct Ruleset {
    table: String,
}

/// A transaction's first message.
pub(super) fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.raw(BATCH_BEGIN, 0, |body| header(body, NFPROTO_UNSPEC, SUBSYSTEM));
    batch
}

/// A transaction's last message.
pub(super) fn end(batch: &mut Batch) {
    batch.raw(BATCH_END, 0, |body| header(body, NFPROTO_UNSPEC, SUBSYSTEM));
}

impl Ruleset {
    pub(super) fn new(table: String) -> Self {
        Self { table }
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Replaces whatever the table holds by what is needed.
    pub(super) fn whole(&self, needs: &Needs) -> Batch {
        let mut batch = begin();
        // A table must be there to be deleted; both and the new one are a single step for packets.
        self.table_message(&mut batch, NEWTABLE, NLM_F_CREATE);
        self.table_message(&mut batch, DELTABLE, 0);
        self.table_message(&mut batch, NEWTABLE, NLM_F_CREATE);
        for (id, map) in (1..).zip(Map::ALL) {
            self.map(&mut batch, map, id);
        }
        self.chain(
            &mut batch,
            "guard",
            Some((HOOK_PREROUTING, PRIORITY_RAW, "filter")),
        );
        self.chain(&mut batch, "ports", None);
        self.chain(
            &mut batch,
            "prerouting",
            Some((HOOK_PREROUTING, PRIORITY_DSTNAT, "nat")),
        );
        self.chain(&mut batch, "output", Some((HOOK_OUTPUT, PRIORITY_DSTNAT, "nat")));
        self.chain(
            &mut batch,
            "postrouting",
            Some((HOOK_POSTROUTING, PRIORITY_SRCNAT, "nat")),
        );

        let loopback: IpNet = "127.0.0.0/8".parse().expect("a constant network");
        self.rule(
            &mut batch,
            "guard",
            Rule::default()
                .family(true)
                .not_from_loopback()
                .destination(loopback, true)
                .drop(),
        );
        // Answers to ::1 have no way back: IPv6 knows no route_localnet. Refused at once is better than never.
        let loopback6: IpNet = "::1/128".parse().expect("a constant network");
        self.rule(
            &mut batch,
            "ports",
            Rule::default().family(false).destination(loopback6, true).back(),
        );
        for map in Map::ALL {
            self.rule(
                &mut batch,
                "ports",
                Rule::default().translate(map.name(), map.is_ipv4, map.by_address),
            );
        }
        self.rule(
            &mut batch,
            "prerouting",
            Rule::default().bound_for_host().jump("ports"),
        );
        self.rule(
            &mut batch,
            "output",
            Rule::default().bound_for_host().jump("ports"),
        );
        let from_loopback = Rule::default()
            .family(true)
            .source(loopback, true)
            .translated()
            .masquerade();
        self.rule(&mut batch, "postrouting", from_loopback);
        needs
            .hairpin
            .iter()
            .for_each(|network| self.hairpin(&mut batch, *network));
        needs
            .masquerade
            .iter()
            .for_each(|network| self.masquerade(&mut batch, *network));
        let all: Vec<PortRule> = needs.ports.values().flatten().copied().collect();
        self.elements(&mut batch, &all, true);
        end(&mut batch);
        batch
    }

    /// Removes the table with all it holds.
    pub(super) fn removal(&self) -> Batch {
        let mut batch = begin();
        self.table_message(&mut batch, DELTABLE, 0);
        end(&mut batch);
        batch
    }

    /// Pods of the network leave it with the host's address.
    pub(super) fn masquerade(&self, batch: &mut Batch, network: IpNet) {
        let network = network.trunc();
        let is_ipv4 = network.addr().is_ipv4();
        let multicast = if is_ipv4 { "224.0.0.0/4" } else { "ff00::/8" };
        let rule = Rule::default()
            .family(is_ipv4)
            .source(network, true)
            .destination(network, false)
            .destination(multicast.parse().expect("a constant network"), false)
            .masquerade();
        self.rule(batch, "postrouting", rule);
    }

    /// Answers between pods of one network, met by a port of the host, go back by the host.
    pub(super) fn hairpin(&self, batch: &mut Batch, network: IpNet) {
        let network = network.trunc();
        let rule = Rule::default()
            .family(network.addr().is_ipv4())
            .source(network, true)
            .destination(network, true)
            .translated()
            .masquerade();
        self.rule(batch, "postrouting", rule);
    }

    /// Adds or removes port maps.
    pub(super) fn elements(&self, batch: &mut Batch, rules: &[PortRule], add: bool) {
        for map in Map::ALL {
            let mine: Vec<&PortRule> = rules.iter().filter(|rule| Map::of(rule) == map).collect();
            for some in mine.chunks(ELEMENTS_A_MESSAGE) {
                let (kind, flags) = if add {
                    (NEWSETELEM, NLM_F_CREATE)
                } else {
                    (DELSETELEM, 0)
                };
                self.element_message(batch, kind, flags, map, some);
            }
        }
    }

    /// Asks for one element of a map.
    pub(super) fn lookup(&self, rule: &PortRule) -> Batch {
        let mut batch = Batch::default();
        self.element_message(&mut batch, GETSETELEM, 0, Map::of(rule), &[rule]);
        batch
    }

    fn element_message(&self, batch: &mut Batch, kind: u16, flags: u16, map: Map, rules: &[&PortRule]) {
        self.message(batch, kind, flags, |attributes| {
            attributes
                .text(1, &self.table)
                .text(2, map.name())
                .nest(3, |list| {
                    for rule in rules {
                        list.member(|element| {
                            element.data(1, &key(rule));
                            if kind == NEWSETELEM {
                                element.data(2, &value(rule));
                            }
                        });
                    }
                });
        });
    }

    fn table_message(&self, batch: &mut Batch, kind: u16, flags: u16) {
        self.message(batch, kind, flags, |attributes| {
            attributes.text(1, &self.table);
        });
    }

    fn chain(&self, batch: &mut Batch, name: &str, hook: Option<(u32, i32, &str)>) {
        self.message(batch, NEWCHAIN, NLM_F_CREATE, |attributes| {
            attributes.text(1, &self.table).text(3, name);
            if let Some((hook, priority, kind)) = hook {
                attributes
                    .nest(4, |inside| {
                        inside.number(1, hook).number(2, priority.cast_unsigned());
                    })
                    .text(7, kind);
            }
        });
    }

    fn map(&self, batch: &mut Batch, map: Map, id: u32) {
        let (address, words) = if map.is_ipv4 {
            (TYPE_IPV4, 1)
        } else {
            (TYPE_IPV6, 4)
        };
        let (key, key_words) = if map.by_address {
            ((((TYPE_PROTOCOL << 6) | address) << 6) | TYPE_PORT, 2 + words)
        } else {
            ((TYPE_PROTOCOL << 6) | TYPE_PORT, 2)
        };
        self.message(batch, NEWSET, NLM_F_CREATE, |attributes| {
            attributes
                .text(1, &self.table)
                .text(2, map.name())
                .number(3, SET_MAP)
                .number(4, key)
                .number(5, key_words * 4)
                .number(6, (address << 6) | TYPE_PORT)
                .number(7, (words + 1) * 4)
                .number(10, id);
        });
    }

    fn rule(&self, batch: &mut Batch, chain: &str, rule: Rule) {
        self.message(batch, NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |attributes| {
            attributes
                .text(1, &self.table)
                .text(2, chain)
                .nest(4, |list| list.0.extend_from_slice(&rule.0));
        });
    }

    fn message(&self, batch: &mut Batch, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        batch.raw((SUBSYSTEM << 8) | kind, flags, |body| {
            header(body, NFPROTO_INET, 0);
            fill(&mut Attributes(body));
        });
    }
}

/// One of the four maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Map {
    is_ipv4: bool,
    by_address: bool,
}

impl Map {
    /// In the order of their rules: what names an address comes first.
    const ALL: [Self; 4] = [
        Self {
            is_ipv4: true,
            by_address: true,
        },
        Self {
            is_ipv4: false,
            by_address: true,
        },
        Self {
            is_ipv4: true,
            by_address: false,
        },
        Self {
            is_ipv4: false,
            by_address: false,
        },
    ];

    fn of(rule: &PortRule) -> Self {
        Self {
            is_ipv4: rule.target.is_ipv4(),
            by_address: rule.address.is_some(),
        }
    }

    fn name(self) -> &'static str {
        match (self.is_ipv4, self.by_address) {
            (true, true) => "host-ports4",
            (false, true) => "host-ports6",
            (true, false) => "ports4",
            (false, false) => "ports6",
        }
    }
}

/// Each part of a concatenation fills registers of four bytes.
fn key(rule: &PortRule) -> Vec<u8> {
    let protocol = match rule.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let mut key = vec![protocol, 0, 0, 0];
    if let Some(address) = rule.address {
        key.extend(address_bytes(address));
    }
    key.extend(rule.port.to_be_bytes());
    key.extend([0, 0]);
    key
}

fn value(rule: &PortRule) -> Vec<u8> {
    let mut value = address_bytes(rule.target.ip());
    value.extend(rule.target.port().to_be_bytes());
    value.extend([0, 0]);
    value
}

/// nfgenmsg.
fn header(body: &mut Vec<u8>, family: u8, resource: u16) {
    body.extend([family, 0]);
    body.extend(resource.to_be_bytes());
}
