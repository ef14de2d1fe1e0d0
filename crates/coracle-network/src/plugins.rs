//! The stock plugins in process: which configurations they take, and their commands.

pub(crate) mod bridge;
pub(crate) mod host_local;
pub(crate) mod loopback;
pub(crate) mod portmap;

use serde_json::{Map, Value};

use crate::PluginError;

/// Keys that every plugin's configuration may have and that the runtime itself acts on.
const COMMON: &[&str] = &[
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "prevResult",
    "runtimeConfig",
    "dns",
];

/// A plugin that runs in process, with its configuration.
#[derive(Debug, Clone)]
pub(crate) enum Stock {
    /// `bridge` with `host-local` or without addresses.
    Bridge(Box<bridge::Config>),
    /// `loopback`.
    Loopback,
    /// `portmap`.
    Portmap,
}

impl Stock {
    /// The plugin of this type, if it exists in process and every option is known there; `None`
    /// leaves the configuration to the real program.
    pub(crate) fn of(
        kind: &str,
        config: &Map<String, Value>,
        network: &str,
    ) -> Result<Option<Self>, PluginError> {
        Ok(match kind {
            "bridge" => bridge::Config::read(config, network)?.map(|config| Self::Bridge(Box::new(config))),
            "loopback" => knows(config, &[]).then_some(Self::Loopback),
            "portmap" => portmap::takes(config).then_some(Self::Portmap),
            _ => None,
        })
    }
}

/// Whether the configuration has no key besides the common ones and `own`.
fn knows(config: &Map<String, Value>, own: &[&str]) -> bool {
    config
        .keys()
        .all(|key| COMMON.contains(&key.as_str()) || own.contains(&key.as_str()))
}

/// Whether the key is absent or has this value, which does nothing.
fn is_unset(config: &Map<String, Value>, key: &str, idle: &Value) -> bool {
    config
        .get(key)
        .is_none_or(|value| value == idle || value.is_null())
}
