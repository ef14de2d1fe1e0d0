//! Results of plugins, and their forms in the versions of the specification.

use std::net::IpAddr;

use coracle_types::pod::DnsConfig;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::version::Version;

/// A result in the form of CNI 1.1, of which the earlier ones are subsets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CniResult {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<IpConfig>,
    pub(crate) routes: Vec<RouteConfig>,
    #[serde(with = "dns")]
    pub(crate) dns: DnsConfig,
}

/// A link of the host (no sandbox) or of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub(crate) socket_path: String,
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub(crate) pci_id: String,
}

/// An address, with the prefix length of its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IpConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
    pub(crate) address: IpNet,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub(crate) gateway: Option<IpAddr>,
}

/// A route of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteConfig {
    pub(crate) dst: IpNet,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub(crate) gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<u8>,
}

impl CniResult {
    /// Reads a plugin's answer of any version from 0.3.0.
    pub(crate) fn read(mut value: Value, expected: Version) -> Result<Self, String> {
        let Value::Object(object) = &mut value else {
            return Err("not a JSON object".into());
        };
        if let Some(version) = object.get("cniVersion").filter(|version| !version.is_null()) {
            let text = version.as_str().unwrap_or_default();
            text.parse::<Version>()?;
        } else if object.contains_key("ip4") || object.contains_key("ip6") {
            return Err(format!(
                "it is of a version before 0.3.0, {expected} was asked for"
            ));
        }
        // Go's plugins write null for an empty list.
        object.retain(|_, member| !member.is_null());
        let result: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        for ip in &result.ips {
            if ip.interface.is_some_and(|index| index >= result.interfaces.len()) {
                return Err(format!(
                    "address {} names an interface that is not in the result",
                    ip.address
                ));
            }
        }
        Ok(result)
    }

    /// The result as plugins of this version expect it.
    pub(crate) fn write(&self, version: Version) -> Value {
        let mut value = serde_json::to_value(self).expect("a result is plain data");
        let object = value.as_object_mut().expect("a struct is an object");
        object.insert("cniVersion".into(), json!(version.as_str()));
        let each = |object: &mut Map<String, Value>, list: &str, edit: &dyn Fn(&mut Map<String, Value>)| {
            for member in object
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                member.as_object_mut().into_iter().for_each(edit);
            }
        };
        if version < Version::V1_1_0 {
            each(object, "interfaces", &|member| {
                member.retain(|key, _| !matches!(key.as_str(), "mtu" | "socketPath" | "pciID"))
            });
            each(object, "routes", &|member| {
                member.retain(|key, _| matches!(key.as_str(), "dst" | "gw"))
            });
        }
        if version < Version::V1_0_0 {
            for (member, ip) in object["ips"].as_array_mut().into_iter().flatten().zip(&self.ips) {
                member["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
            }
        }
        object.retain(|key, member| key == "dns" || member.as_array().is_none_or(|list| !list.is_empty()));
        value
    }

    /// The addresses inside the pod.
    pub(crate) fn pod_ips(&self) -> impl Iterator<Item = &IpConfig> {
        self.ips.iter().filter(
            |ip| match ip.interface.and_then(|index| self.interfaces.get(index)) {
                Some(interface) => !interface.sandbox.is_empty(),
                None => true,
            },
        )
    }
}

/// Go writes an absent address as an empty string in places.
fn empty_is_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is no IP address"))),
    }
}

/// Name servers in CNI's spelling.
mod dns {
    use super::{Deserialize, DnsConfig, Serialize};

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Spelled {
        #[serde(skip_serializing_if = "Option::is_none")]
        nameservers: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        search: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        options: Option<Vec<String>>,
    }

    pub(super) fn serialize<S: serde::Serializer>(dns: &DnsConfig, to: S) -> Result<S::Ok, S::Error> {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        Spelled {
            nameservers: some(&dns.servers),
            search: some(&dns.searches),
            options: some(&dns.options),
        }
        .serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<DnsConfig, D::Error> {
        let spelled = Spelled::deserialize(from)?;
        Ok(DnsConfig {
            servers: spelled.nameservers.unwrap_or_default(),
            searches: spelled.search.unwrap_or_default(),
            options: spelled.options.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CniResult {
        CniResult::read(
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name":"cni0","mac":"00:11:22:33:44:55","mtu":1500},{"name":"eth0","sandbox":"/run/netns/x","pciID":"0000:00:01.0"}],
                "ips": [{"interface":1,"address":"10.1.0.5/16","gateway":"10.1.0.1"},{"interface":1,"address":"fd00::5/64"}],
                "routes": [{"dst":"0.0.0.0/0","mtu":1400}, {"dst":"::/0","gw":"fd00::1"}],
                "dns": {"nameservers":["10.1.0.1"],"domain":"ignored"}
            }),
            Version::V1_1_0,
        )
        .unwrap()
    }

    #[test]
    fn every_version_has_its_own_fields() {
        let new = sample().write(Version::V1_1_0);
        assert_eq!(new["interfaces"][0]["mtu"], 1500);
        assert_eq!(new["routes"][0]["mtu"], 1400);
        assert!(new["ips"][0].get("version").is_none());
        let old = sample().write(Version::V0_3_1);
        assert_eq!(old["cniVersion"], "0.3.1");
        assert_eq!(
            (&old["ips"][0]["version"], &old["ips"][1]["version"]),
            (&json!("4"), &json!("6"))
        );
        assert!(old["interfaces"][0].get("mtu").is_none());
        assert!(old["interfaces"][1].get("pciID").is_none());
        assert_eq!(old["routes"][0], json!({"dst":"0.0.0.0/0"}));
    }

    #[test]
    fn a_round_trip_keeps_everything() {
        for version in [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0] {
            let once = CniResult::read(sample().write(version), version).unwrap();
            assert_eq!(once.ips, sample().ips);
            assert_eq!(
                once.write(version),
                CniResult::read(once.write(version), version)
                    .unwrap()
                    .write(version)
            );
        }
        assert_eq!(
            CniResult::read(sample().write(Version::V1_1_0), Version::V1_1_0).unwrap(),
            sample()
        );
    }

    #[test]
    fn gos_habits_are_understood_and_lies_refused() {
        let go = json!({"cniVersion":"0.4.0","interfaces":null,"ips":[{"version":"4","address":"10.0.0.2/24","gateway":""}],"routes":null,"dns":{}});
        assert_eq!(CniResult::read(go, Version::V0_4_0).unwrap().ips.len(), 1);
        for lie in [
            json!([]),
            json!({"cniVersion":"0.2.0","ip4":{}}),
            json!({"ip4":{"ip":"10.0.0.1/8"}}),
            json!({"ips":[{"address":"10.0.0.2/24","interface":7}]}),
            json!({"ips":[{"address":"10.0.0.2"}]}),
            json!({"ips":[{"address":"nonsense"}]}),
        ] {
            assert!(CniResult::read(lie.clone(), Version::V1_0_0).is_err(), "{lie}");
        }
    }
}
