//! A network's configuration: a list of plugins, read from a `.conflist`, `.conf` or `.json` file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::version::Version;
use crate::names;
use crate::settings::{DefaultNetwork, NetworksConfig};

/// More plugins than any network chains; each costs a process or a transaction a pod.
const MOST_PLUGINS: usize = 32;

/// A network as configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkConf {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// Whether plugins in a directory by the network's name stay out.
    pub(crate) only_inlined: bool,
    pub(crate) plugins: Vec<PluginConf>,
}

/// One plugin of a network, with its configuration as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PluginConf {
    pub(crate) kind: String,
    pub(crate) config: Map<String, Value>,
}

impl PluginConf {
    /// Reads a plugin's object.
    pub(crate) fn read(value: Value) -> Result<Self, String> {
        let Value::Object(config) = value else {
            return Err("a plugin is not an object".into());
        };
        let kind = match config.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            _ => return Err("a plugin lacks `type`".into()),
        };
        if !names::is_plugin_type(&kind) {
            return Err(format!("plugin type {kind:?} is not a plain file name"));
        }
        Ok(Self { kind, config })
    }

    /// Whether the plugin declares the capability.
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.config.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true))
    }
}

impl NetworkConf {
    /// Reads a file's text; the error says what is wrong, without the file's name.
    pub(crate) fn read(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(mut object) = value else {
            return Err("not a JSON object".into());
        };
        let name = match object.get("name") {
            Some(Value::String(name)) => name.clone(),
            _ => return Err("`name` is missing".into()),
        };
        if !names::is_network_name(&name) {
            return Err(format!(
                "`name` {name:?} must be letters, digits, '_', '.', '-', beginning with a letter or digit"
            ));
        }
        let version = read_version(&object)?;
        let plugins = match object.remove("plugins") {
            None => vec![PluginConf::read(Value::Object(object.clone()))?],
            Some(Value::Array(plugins)) if plugins.len() <= MOST_PLUGINS => plugins
                .into_iter()
                .map(PluginConf::read)
                .collect::<Result<Vec<_>, _>>()?,
            Some(Value::Array(plugins)) => {
                return Err(format!(
                    "`plugins` has {} entries, at most {MOST_PLUGINS} are taken",
                    plugins.len()
                ));
            }
            Some(_) => return Err("`plugins` is not a list".into()),
        };
        Ok(Self {
            name,
            version,
            disable_check: read_flag(&object, "disableCheck")?,
            disable_gc: read_flag(&object, "disableGC")?,
            only_inlined: read_flag(&object, "loadOnlyInlinedPlugins")?,
            plugins,
        })
    }

    /// The network that is made up when none is configured.
    pub(crate) fn default_network(
        settings: &NetworksConfig,
        wanted: &DefaultNetwork,
        pod_cidrs: &[ipnet::IpNet],
    ) -> Self {
        let subnets = if pod_cidrs.is_empty() {
            &wanted.subnets[..]
        } else {
            pod_cidrs
        };
        let ranges: Vec<Value> = subnets
            .iter()
            .map(|subnet| json!([{ "subnet": subnet.trunc() }]))
            .collect();
        let bridge = json!({
            "type": "bridge",
            "bridge": settings.default_bridge(),
            "isGateway": true,
            "isDefaultGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "dataDir": wanted.data_dir, "ranges": ranges },
        });
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        Self {
            name: settings.instance.as_str().into(),
            version: Version::V1_1_0,
            disable_check: false,
            disable_gc: false,
            only_inlined: true,
            plugins: [bridge, portmap]
                .into_iter()
                .map(|value| PluginConf::read(value).expect("a configuration of our own making"))
                .collect(),
        }
    }
}

/// The greatest version that the configuration offers and we speak.
fn read_version(object: &Map<String, Value>) -> Result<Version, String> {
    let single = match object.get("cniVersion") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => return Err("`cniVersion` is not a string".into()),
    };
    let offered = match object.get("cniVersions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(all)) => all
            .iter()
            .map(|version| {
                version
                    .as_str()
                    .ok_or("`cniVersions` holds something that is no string")
            })
            .collect::<Result<Vec<_>, _>>()?,
        Some(_) => return Err("`cniVersions` is not a list".into()),
    };
    if let Some(best) = offered
        .iter()
        .chain(&single)
        .filter_map(|text| text.parse::<Version>().ok())
        .max()
    {
        return Ok(best);
    }
    match single.or(offered.first().copied()) {
        Some(text) => Err(text.parse::<Version>().err().unwrap_or_default()),
        None => Err("`cniVersion` is missing: 0.3.1 to 1.1.0 are spoken".into()),
    }
}

/// Old files write `"true"`.
fn read_flag(object: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) => text
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| format!("`{key}` is {text:?} and neither true nor false")),
        Some(_) => Err(format!("`{key}` is neither true nor false")),
    }
}

/// Adds the plugins of the directory `<dir>/<network>` to a network that did not refuse them (CNI 1.1).
pub(crate) fn add_directory(conf: &mut NetworkConf, dir: &Path) -> Result<(), String> {
    if conf.only_inlined {
        return Ok(());
    }
    let Ok(entries) = std::fs::read_dir(dir.join(&conf.name)) else {
        return Ok(());
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    for file in files {
        let text =
            super::directory::read_bounded(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let value = serde_json::from_slice(&text)
            .map_err(|error| format!("{}: not JSON: {error}", file.display()))?;
        conf.plugins
            .push(PluginConf::read(value).map_err(|error| format!("{}: {error}", file.display()))?);
        if conf.plugins.len() > MOST_PLUGINS {
            return Err(format!("more than {MOST_PLUGINS} plugins"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<NetworkConf, String> {
        NetworkConf::read(text.as_bytes())
    }

    #[test]
    fn lists_and_single_plugins_are_read() {
        let list = read(r#"{"cniVersion":"1.0.0","name":"n","disableCheck":"true","plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}"#).unwrap();
        assert_eq!(
            (list.version, list.plugins.len(), list.disable_check),
            (Version::V1_0_0, 2, true)
        );
        assert!(list.plugins[1].has_capability("portMappings"));
        assert!(!list.plugins[0].has_capability("portMappings"));
        let single = read(r#"{"cniVersion":"0.3.1","name":"n","type":"ptp"}"#).unwrap();
        assert_eq!(single.plugins[0].kind, "ptp");
    }

    #[test]
    fn the_best_offered_version_is_taken() {
        let offered =
            |text: &str| read(&format!(r#"{{"name":"n",{text},"plugins":[]}}"#)).map(|conf| conf.version);
        assert_eq!(
            offered(r#""cniVersions":["0.3.1","1.1.0","9.9.9"]"#),
            Ok(Version::V1_1_0)
        );
        assert_eq!(
            offered(r#""cniVersion":"0.4.0","cniVersions":["0.3.1"]"#),
            Ok(Version::V0_4_0)
        );
        assert!(offered(r#""cniVersion":"0.2.0""#).unwrap_err().contains("0.2.0"));
        assert!(offered(r#""other":1"#).unwrap_err().contains("missing"));
    }

    #[test]
    fn what_would_leave_its_place_is_refused() {
        for bad in [
            r#"{"cniVersion":"1.0.0","name":"../x","type":"bridge"}"#,
            r#"{"cniVersion":"1.0.0","name":"x","type":"../bridge"}"#,
            r#"{"cniVersion":"1.0.0","name":"x","type":"/bin/sh"}"#,
            r#"{"cniVersion":"1.0.0","name":"x"}"#,
            r#"{"cniVersion":"1.0.0","name":"x","plugins":[1]}"#,
            r#"{"cniVersion":"1.0.0","name":"x","plugins":[],"disableGC":3}"#,
            "[]",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many = vec![r#"{"type":"a"}"#; MOST_PLUGINS + 1].join(",");
        assert!(
            read(&format!(
                r#"{{"cniVersion":"1.0.0","name":"x","plugins":[{many}]}}"#
            ))
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in r#"[ -~]{0,64}"#, name in ".{0,12}") {
            let _ = NetworkConf::read(text.as_bytes());
            let value = json!({ "cniVersion": "1.0.0", "name": name, "plugins": [{ "type": text }] });
            let _ = NetworkConf::read(value.to_string().as_bytes());
        }
    }
}
