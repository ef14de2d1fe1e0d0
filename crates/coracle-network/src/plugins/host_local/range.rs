//! Ranges of addresses and the order in which they are given out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

use crate::PluginError;

/// A range as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RangeConfig {
    subnet: Option<IpNet>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl RangeConfig {
    /// The whole of a network.
    pub(crate) fn whole(subnet: IpNet) -> Self {
        Self {
            subnet: Some(subnet),
            ..Self::default()
        }
    }
}

/// Addresses `start` to `end`, both included, of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: IpNet,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
    pub(crate) gateway: IpAddr,
}

impl Range {
    fn new(written: &RangeConfig) -> Result<Self, PluginError> {
        let refuse = |field: &str, problem: String| PluginError::Config {
            field: format!("ipam.{field}"),
            problem,
        };
        let subnet = written
            .subnet
            .ok_or_else(|| refuse("subnet", "is missing from a range".into()))?;
        if subnet.addr() != subnet.network() {
            return Err(refuse(
                "subnet",
                format!("{subnet} has host bits set: write {}", subnet.trunc()),
            ));
        }
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(refuse(
                "subnet",
                format!("{subnet} is too small to allocate from: at least 2 host bits are needed"),
            ));
        }
        if let IpAddr::V6(address) = subnet.addr()
            && address.to_ipv4_mapped().is_some()
        {
            return Err(refuse(
                "subnet",
                format!("{subnet} is an IPv4 network in IPv6 clothes: write it as IPv4"),
            ));
        }
        let first = from_number(number(subnet.network()) + 1, subnet.addr().is_ipv4());
        // IPv4's last address is for broadcast.
        let last = match subnet {
            IpNet::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.broadcast().to_bits() - 1)),
            IpNet::V6(network) => IpAddr::V6(network.broadcast()),
        };
        let inside = |field: &str, address: Option<IpAddr>, otherwise: IpAddr| match address {
            None => Ok(otherwise),
            Some(address) if subnet.contains(&address) => Ok(address),
            Some(address) => Err(refuse(field, format!("{address} is not in {subnet}"))),
        };
        let range = Self {
            subnet,
            start: inside("rangeStart", written.range_start, first)?,
            end: inside("rangeEnd", written.range_end, last)?,
            gateway: match written.gateway {
                Some(address) if address.is_ipv4() != first.is_ipv4() => {
                    return Err(refuse(
                        "gateway",
                        format!("{address} is not of the family of {subnet}"),
                    ));
                }
                gateway => gateway.unwrap_or(first),
            },
        };
        if number(range.start) > number(range.end) {
            return Err(refuse(
                "rangeStart",
                format!("{} is behind rangeEnd {}", range.start, range.end),
            ));
        }
        Ok(range)
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.start.is_ipv4()
            && (number(self.start)..=number(self.end)).contains(&number(address))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || self.contains(other.end) || other.contains(self.start)
    }

    /// How many addresses, less one so that all of IPv6 fits.
    fn span(&self) -> u128 {
        number(self.end) - number(self.start)
    }
}

/// Ranges of one family of which a pod gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Checks and completes written ranges.
    pub(crate) fn new(written: &[RangeConfig]) -> Result<Self, PluginError> {
        let refuse = |problem| PluginError::Config {
            field: "ipam.ranges".into(),
            problem,
        };
        let ranges = written.iter().map(Range::new).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = ranges.first() else {
            return Err(refuse("has an empty set".into()));
        };
        for (place, range) in ranges.iter().enumerate() {
            if range.start.is_ipv4() != first.start.is_ipv4() {
                return Err(refuse(format!(
                    "mixes families in one set: {} and {}",
                    first.subnet, range.subnet
                )));
            }
            if let Some(other) = ranges[..place].iter().find(|other| other.overlaps(range)) {
                return Err(refuse(format!(
                    "overlap in one set: {} and {}",
                    other.subnet, range.subnet
                )));
            }
        }
        Ok(Self(ranges))
    }

    /// Whether an address is in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|mine| other.0.iter().any(|theirs| mine.overlaps(theirs)))
    }

    /// Every address once, from the one behind `last` round to it, without gateways.
    pub(crate) fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let total = self.0.iter().fold(0_u128, |sum, range| {
            sum.saturating_add(range.span()).saturating_add(1)
        });
        let start = last
            .and_then(|last| self.place_of(last))
            .map_or(0, |place| (place + 1) % total);
        let mut taken = 0;
        std::iter::from_fn(move || {
            while taken < total {
                // start and taken are below total, which may be close to the end of u128.
                let place = if start < total - taken {
                    start + taken
                } else {
                    start - (total - taken)
                };
                taken += 1;
                let found = self.at(place)?;
                if found.0 != found.1.gateway {
                    return Some(found);
                }
            }
            None
        })
    }

    fn place_of(&self, address: IpAddr) -> Option<u128> {
        let mut before = 0_u128;
        for range in &self.0 {
            if range.contains(address) {
                return Some(before + (number(address) - number(range.start)));
            }
            before = before.checked_add(range.span())?.checked_add(1)?;
        }
        None
    }

    fn at(&self, mut place: u128) -> Option<(IpAddr, &Range)> {
        for range in &self.0 {
            if place <= range.span() {
                return Some((
                    from_number(number(range.start) + place, range.start.is_ipv4()),
                    range,
                ));
            }
            place -= range.span() + 1;
        }
        None
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{}-{}", range.start, range.end)?;
        }
        Ok(())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_number(number: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(number).expect("an offset inside an IPv4 network"),
        ))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> Result<RangeSet, PluginError> {
        RangeSet::new(&serde_json::from_str::<Vec<RangeConfig>>(text).unwrap())
    }

    #[test]
    fn a_range_is_completed_as_the_plugin_does_it() {
        let four = set(r#"[{"subnet":"10.1.2.0/24"}]"#).unwrap();
        assert_eq!(four.to_string(), "10.1.2.1-10.1.2.254");
        assert_eq!(four.0[0].gateway.to_string(), "10.1.2.1");
        let six = set(r#"[{"subnet":"2001:db8:1::/64"}]"#).unwrap();
        assert_eq!(six.to_string(), "2001:db8:1::1-2001:db8:1:0:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn what_the_plugin_refuses_is_refused_with_its_field() {
        for (text, says) in [
            (r"[]", "empty"),
            (r#"[{"rangeStart":"10.0.0.1"}]"#, "subnet"),
            (r#"[{"subnet":"10.0.0.1/24"}]"#, "host bits"),
            (r#"[{"subnet":"10.0.0.0/31"}]"#, "too small"),
            (
                r#"[{"subnet":"10.0.0.0/24","rangeStart":"10.0.1.1"}]"#,
                "rangeStart",
            ),
            (r#"[{"subnet":"10.0.0.0/24","rangeEnd":"10.0.1.1"}]"#, "rangeEnd"),
            (
                r#"[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.8"}]"#,
                "behind",
            ),
            (r#"[{"subnet":"10.0.0.0/24","gateway":"fd00::1"}]"#, "family"),
            (
                r#"[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.0.128/25"}]"#,
                "overlap",
            ),
            (r#"[{"subnet":"10.0.0.0/24"},{"subnet":"fd00::/64"}]"#, "mixes"),
            (r#"[{"subnet":"::ffff:10.0.0.0/120"}]"#, "IPv4"),
        ] {
            let error = set(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn all_of_ipv6_can_be_walked() {
        let all = set(r#"[{"subnet":"::/0","rangeStart":"::"},{"subnet":"::/0"}]"#);
        assert!(all.is_err(), "overlap");
        let all = set(r#"[{"subnet":"::/0","rangeStart":"::"}]"#).unwrap();
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe".parse().ok();
        assert!(all.candidates(last).take(3).count() >= 1);
    }

    proptest! {
        #[test]
        fn every_address_comes_once_and_the_walk_goes_on_behind_the_last(
            prefix in 24_u8..=30, low in 0_u32..64, wide in 0_u32..64, second in any::<bool>(), pick in any::<prop::sample::Index>(),
        ) {
            let size = 1_u32 << (32 - prefix);
            let (low, high) = (low % size, (low % size + wide).min(size - 1));
            let first = Ipv4Addr::from_bits(0x0a00_0000 + low);
            let end = Ipv4Addr::from_bits(0x0a00_0000 + high);
            let mut text = format!(r#"[{{"subnet":"10.0.0.0/{prefix}","rangeStart":"{first}","rangeEnd":"{end}"}}"#);
            if second {
                text.push_str(r#",{"subnet":"10.9.0.0/29"}"#);
            }
            text.push(']');
            let ranges = set(&text).unwrap();
            let all: Vec<IpAddr> = ranges.candidates(None).map(|(address, _)| address).collect();
            let gateway: IpAddr = "10.0.0.1".parse().unwrap();
            let expected = (high - low + 1) as usize - usize::from(ranges.0[0].contains(gateway))
                + if second { 5 } else { 0 };
            prop_assert_eq!(all.len(), expected);
            let mut unique = all.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), all.len());
            for (address, range) in ranges.candidates(None) {
                prop_assert!(range.contains(address) && range.subnet.contains(&address));
                prop_assert_ne!(address, range.gateway);
            }
            if !all.is_empty() {
                let at = pick.index(all.len());
                let again: Vec<IpAddr> = ranges.candidates(Some(all[at])).map(|(address, _)| address).collect();
                let mut turned = all.clone();
                turned.rotate_left((at + 1) % all.len());
                prop_assert_eq!(again, turned);
            }
        }
    }
}
