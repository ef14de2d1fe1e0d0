//! nf_tables in netlink: attributes, and the expressions of rules (linux/netfilter/nf_tables.h).

use std::net::IpAddr;

use ipnet::IpNet;

/// Registers of four bytes: the first, and the one behind an IPv4 address.
pub(super) const REG32_00: u32 = 8;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NESTED: u16 = 0x8000;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

const META_IIF: u32 = 4;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const CT_STATUS: u32 = 2;
/// Connections whose destination was translated (IPS_DST_NAT).
const STATUS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NAT_DNAT: u32 = 1;
const VERDICT_DROP: u32 = 0;
const VERDICT_RETURN: u32 = -5_i32 as u32;
const VERDICT_JUMP: u32 = -3_i32 as u32;

/// Writes attributes behind each other.
pub(super) struct Attributes<'a>(pub(super) &'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).expect("attributes here are small");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - start).expect("nests here are below 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// `NFTA_DATA_VALUE` in an attribute.
    pub(super) fn data(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest(kind, |inside| {
            inside.bytes(NFTA_DATA_VALUE, value);
        })
    }

    /// A member of a list.
    pub(super) fn member(&mut self, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.nest(NFTA_LIST_ELEM, fill)
    }
}

/// The expressions of one rule, evaluated in order until one does not match.
#[derive(Debug, Default)]
pub(super) struct Rule(pub(super) Vec<u8>);

impl Rule {
    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) -> Self {
        Attributes(&mut self.0).member(|member| {
            member.text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, fill);
        });
        self
    }

    fn meta(self, key: u32, to: u32) -> Self {
        self.expression("meta", |data| {
            data.number(1, to).number(2, key);
        })
    }

    fn payload(self, base: u32, offset: u32, length: u32, to: u32) -> Self {
        self.expression("payload", |data| {
            data.number(1, to)
                .number(2, base)
                .number(3, offset)
                .number(4, length);
        })
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.number(1, REG32_00).number(2, operation).data(3, value);
        })
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).expect("at most 16 bytes");
        self.expression("bitwise", |data| {
            data.number(1, REG32_00)
                .number(2, REG32_00)
                .number(3, length)
                .data(4, mask)
                .data(5, &vec![0; mask.len()]);
        })
    }

    /// Packets of the family.
    pub(super) fn family(self, is_ipv4: bool) -> Self {
        self.meta(META_NFPROTO, REG32_00)
            .compare(CMP_EQ, &[if is_ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }])
    }

    /// Packets that came in by another link than `lo`, the first of every namespace.
    pub(super) fn not_from_loopback(self) -> Self {
        self.meta(META_IIF, REG32_00)
            .compare(CMP_NEQ, &1_u32.to_ne_bytes())
    }

    /// Packets whose source is (not) in the network.
    pub(super) fn source(self, network: IpNet, inside: bool) -> Self {
        self.address(network, inside, if network.addr().is_ipv4() { 12 } else { 8 })
    }

    /// Packets whose destination is (not) in the network.
    pub(super) fn destination(self, network: IpNet, inside: bool) -> Self {
        self.address(network, inside, if network.addr().is_ipv4() { 16 } else { 24 })
    }

    fn address(self, network: IpNet, inside: bool, offset: u32) -> Self {
        let wanted = address_bytes(network.network());
        let length = u32::try_from(wanted.len()).expect("4 or 16");
        self.payload(PAYLOAD_NETWORK, offset, length, REG32_00)
            .mask(&address_bytes(network.netmask()))
            .compare(if inside { CMP_EQ } else { CMP_NEQ }, &wanted)
    }

    /// Connections whose destination was translated.
    pub(super) fn translated(self) -> Self {
        self.expression("ct", |data| {
            data.number(1, REG32_00).number(2, CT_STATUS);
        })
        .mask(&STATUS_DST_NAT.to_ne_bytes())
        .compare(CMP_NEQ, &0_u32.to_ne_bytes())
    }

    /// Packets to an address of the host's own.
    pub(super) fn bound_for_host(self) -> Self {
        self.expression("fib", |data| {
            data.number(1, REG32_00)
                .number(2, FIB_RESULT_ADDRTYPE)
                .number(3, FIB_DADDR);
        })
        .compare(CMP_EQ, &RTN_LOCAL.to_ne_bytes())
    }

    /// Translates the destination by a map from protocol, address if asked for, and port.
    pub(super) fn translate(self, map: &str, is_ipv4: bool, by_address: bool) -> Self {
        let words = if is_ipv4 { 1 } else { 4 };
        let rule = self.family(is_ipv4).meta(META_L4PROTO, REG32_00);
        let (rule, port) = if by_address {
            let rule = rule.payload(
                PAYLOAD_NETWORK,
                if is_ipv4 { 16 } else { 24 },
                words * 4,
                REG32_00 + 1,
            );
            (rule, REG32_00 + 1 + words)
        } else {
            (rule, REG32_00 + 1)
        };
        rule.payload(PAYLOAD_TRANSPORT, 2, 2, port)
            .expression("lookup", |data| {
                data.text(1, map).number(2, REG32_00).number(3, REG32_00);
            })
            .expression("nat", |data| {
                data.number(1, NAT_DNAT)
                    .number(2, u32::from(if is_ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }))
                    .number(3, REG32_00)
                    .number(5, REG32_00 + words);
            })
    }

    /// Gives the packet the address of the link it leaves by.
    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// Goes on in another chain.
    pub(super) fn jump(self, chain: &str) -> Self {
        self.verdict(VERDICT_JUMP, Some(chain))
    }

    /// Goes back to the calling chain.
    pub(super) fn back(self) -> Self {
        self.verdict(VERDICT_RETURN, None)
    }

    /// Drops the packet.
    pub(super) fn drop(self) -> Self {
        self.verdict(VERDICT_DROP, None)
    }

    fn verdict(self, code: u32, chain: Option<&str>) -> Self {
        self.expression("immediate", |data| {
            data.number(1, 0).nest(2, |value| {
                value.nest(NFTA_DATA_VERDICT, |verdict| {
                    verdict.number(1, code);
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }
}

/// An address as it stands in a packet.
pub(super) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
