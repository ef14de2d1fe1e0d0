//! The configuration of `bridge`, as far as it is taken in process.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::plugins::{host_local, is_unset, knows};
use crate::{PluginError, names};

const KEYS: &[&str] = &[
    "bridge",
    "isGateway",
    "isGW",
    "isDefaultGateway",
    "ipMasq",
    "ipMasqBackend",
    "hairpinMode",
    "promiscMode",
    "mtu",
    "portIsolation",
    "ipam",
    "forceAddress",
    "vlan",
    "vlanTrunk",
    "preserveDefaultVlan",
    "macspoofchk",
    "disableContainerInterface",
    "enabledad",
    "uplinkInterface",
];

/// The plugin's configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(super) written: Written,
    /// `None` is a pod without addresses.
    pub(crate) ipam: Option<host_local::Config>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Written {
    pub(super) bridge: String,
    #[serde(alias = "isGW")]
    pub(super) is_gateway: bool,
    pub(super) is_default_gateway: bool,
    pub(super) ip_masq: bool,
    pub(super) hairpin_mode: bool,
    pub(super) promisc_mode: bool,
    pub(super) port_isolation: bool,
    pub(super) mtu: u32,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            bridge: "cni0".into(),
            is_gateway: false,
            is_default_gateway: false,
            ip_masq: false,
            hairpin_mode: false,
            promisc_mode: false,
            port_isolation: false,
            mtu: 0,
        }
    }
}

impl Config {
    /// Reads the configuration; `None` when it asks for something that only the program does.
    pub(crate) fn read(config: &Map<String, Value>, network: &str) -> Result<Option<Self>, PluginError> {
        let off = json!(false);
        let plain = knows(config, KEYS)
            && is_unset(config, "forceAddress", &off)
            && is_unset(config, "vlan", &json!(0))
            && is_unset(config, "vlanTrunk", &json!([]))
            && is_unset(config, "macspoofchk", &off)
            && is_unset(config, "disableContainerInterface", &off)
            && is_unset(config, "enabledad", &off)
            && is_unset(config, "uplinkInterface", &json!(""))
            && is_unset(config, "ipMasqBackend", &json!("nftables"));
        if !plain {
            return Ok(None);
        }
        let ipam = match config.get("ipam") {
            None | Some(Value::Null) => None,
            Some(Value::Object(ipam)) if ipam.is_empty() => None,
            Some(Value::Object(ipam)) if ipam.get("type") == Some(&json!("host-local")) => {
                match host_local::Config::read(ipam, network)? {
                    Some(read) => Some(read),
                    None => return Ok(None),
                }
            }
            Some(_) => return Ok(None),
        };
        let refuse = |field: &str, problem: String| PluginError::Config {
            field: field.into(),
            problem,
        };
        let mut written: Written = serde_json::from_value(Value::Object(config.clone()))
            .map_err(|error| refuse("of type bridge", error.to_string()))?;
        if !names::is_link_name(&written.bridge) {
            return Err(refuse(
                "bridge",
                format!("{:?} cannot be an interface's name", written.bridge),
            ));
        }
        if written.mtu != 0 && !(68..=65_535).contains(&written.mtu) {
            return Err(refuse(
                "mtu",
                format!("{} is not between 68 and 65535", written.mtu),
            ));
        }
        if written.hairpin_mode && written.promisc_mode {
            return Err(refuse(
                "hairpinMode",
                "cannot be had together with promiscMode".into(),
            ));
        }
        written.is_gateway |= written.is_default_gateway;
        Ok(Some(Self { written, ipam }))
    }

    /// Whether pods leave with the host's address.
    pub(crate) fn masquerades(&self) -> bool {
        self.written.ip_masq
    }

    /// The bridge's name.
    pub(crate) fn bridge(&self) -> &str {
        &self.written.bridge
    }
}
