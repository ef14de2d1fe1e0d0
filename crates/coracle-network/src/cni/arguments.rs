//! What a plugin is told about the pod: environment, `CNI_ARGS`, capability arguments.

use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::configuration::PluginConf;
use crate::{POD_INTERFACE, PluginError, PodNetwork};

/// Annotations by which a pod limits its traffic, in bits a second as a Kubernetes quantity.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// The kubelet's own bounds for these annotations.
const BANDWIDTH: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// The environment of a plugin's program, beside CNI_COMMAND and CNI_PATH.
pub(crate) fn environment(pod: &PodNetwork, netns: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_CONTAINERID", pod.id.to_string()),
        ("CNI_NETNS", netns.into()),
        ("CNI_IFNAME", POD_INTERFACE.into()),
        (
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                pod.namespace, pod.name, pod.id, pod.uid
            ),
        ),
    ]
}

/// `runtimeConfig` for one plugin: only what it declared to be capable of.
pub(crate) fn runtime_config(
    plugin: &PluginConf,
    pod: &PodNetwork,
    pod_cidrs: &[IpNet],
) -> Result<Map<String, Value>, PluginError> {
    let mut given = Map::new();
    if plugin.has_capability("portMappings") && !pod.port_mappings.is_empty() {
        given.insert("portMappings".into(), port_mappings(pod));
    }
    if plugin.has_capability("ipRanges") && !pod_cidrs.is_empty() {
        given.insert(
            "ipRanges".into(),
            pod_cidrs
                .iter()
                .map(|cidr| json!([{ "subnet": cidr.trunc() }]))
                .collect(),
        );
    }
    if plugin.has_capability("bandwidth")
        && let Some(limits) = bandwidth(pod)?
    {
        given.insert("bandwidth".into(), limits);
    }
    if plugin.has_capability("dns")
        && let Some(dns) = &pod.dns
    {
        given.insert(
            "dns".into(),
            json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options }),
        );
    }
    if plugin.has_capability("cgroupPath") && !pod.cgroup_path.is_empty() {
        given.insert("cgroupPath".into(), json!(pod.cgroup_path));
    }
    if plugin.has_capability("io.kubernetes.cri.pod-annotations") && !pod.annotations.is_empty() {
        given.insert("io.kubernetes.cri.pod-annotations".into(), json!(pod.annotations));
    }
    Ok(given)
}

fn port_mappings(pod: &PodNetwork) -> Value {
    pod.port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol.as_str(),
                "hostIP": mapping.host_ip.map(|address| address.to_string()).unwrap_or_default(),
            })
        })
        .collect()
}

fn bandwidth(pod: &PodNetwork) -> Result<Option<Value>, PluginError> {
    let rate = |annotation: &'static str| match pod.annotations.get(annotation) {
        None => Ok(None),
        Some(text) => match quantity(text).filter(|rate| BANDWIDTH.contains(rate)) {
            Some(rate) => Ok(Some(rate)),
            None => Err(PluginError::Config {
                field: format!("annotation {annotation}"),
                problem: format!(
                    "{:?} is no quantity between 1k and 1P bits a second",
                    text.chars().take(40).collect::<String>()
                ),
            }),
        },
    };
    let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
    if ingress.is_none() && egress.is_none() {
        return Ok(None);
    }
    // No limit on a burst is said by the largest that the plugin takes.
    let burst = |rate: Option<u64>| if rate.is_some() { i32::MAX as u64 } else { 0 };
    Ok(Some(json!({
        "ingressRate": ingress.unwrap_or(0),
        "ingressBurst": burst(ingress),
        "egressRate": egress.unwrap_or(0),
        "egressBurst": burst(egress),
    })))
}

/// A Kubernetes quantity that is a whole number: `10M`, `512Ki`, `1e6`, `2500`.
fn quantity(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if digits.is_empty() || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let scale: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10_u128.checked_pow(power.min(19))?
        }
    };
    let tens = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parse = |digits: &str| {
        if digits.is_empty() {
            Some(0_u128)
        } else {
            digits.parse().ok()
        }
    };
    let number = parse(whole)?.checked_mul(tens)?.checked_add(parse(fraction)?)?;
    u64::try_from(number.checked_mul(scale)? / tens).ok()
}

/// Where programs of plugins are looked for, as CNI_PATH has it.
pub(crate) fn search_path(dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(":")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coracle_types::PodSandboxId;
    use coracle_types::pod::{DnsConfig, PortMapping, Protocol};
    use proptest::prelude::*;

    use super::*;

    fn pod() -> PodNetwork {
        PodNetwork {
            id: PodSandboxId::generate(),
            name: "web".into(),
            namespace: "default".into(),
            uid: "1-2".into(),
            netns: "/run/netns/x".into(),
            port_mappings: vec![
                PortMapping {
                    protocol: Protocol::Udp,
                    container_port: 53,
                    host_port: 5353,
                    host_ip: "127.0.0.1".parse().ok(),
                },
                PortMapping {
                    protocol: Protocol::Tcp,
                    container_port: 80,
                    host_port: 0,
                    host_ip: None,
                },
            ],
            annotations: BTreeMap::from([(INGRESS.to_owned(), "10M".to_owned())]),
            dns: Some(DnsConfig {
                servers: vec!["10.0.0.10".into()],
                ..DnsConfig::default()
            }),
            cgroup_path: "/pods/x".into(),
        }
    }

    #[test]
    fn only_declared_capabilities_are_given() {
        let plugin = |capabilities: Value| {
            PluginConf::read(json!({ "type": "x", "capabilities": capabilities })).unwrap()
        };
        let none = runtime_config(&plugin(json!({ "portMappings": false })), &pod(), &[]).unwrap();
        assert!(none.is_empty());
        let all = runtime_config(
            &plugin(json!({ "portMappings": true, "bandwidth": true, "dns": true, "ipRanges": true, "cgroupPath": true })),
            &pod(),
            &["10.2.0.0/24".parse().unwrap()],
        )
        .unwrap();
        assert_eq!(
            Value::Object(all),
            json!({
                "portMappings": [{ "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1" }],
                "bandwidth": { "ingressRate": 10_000_000, "ingressBurst": 2_147_483_647, "egressRate": 0, "egressBurst": 0 },
                "dns": { "servers": ["10.0.0.10"], "searches": [], "options": [] },
                "ipRanges": [[{ "subnet": "10.2.0.0/24" }]],
                "cgroupPath": "/pods/x",
            })
        );
    }

    #[test]
    fn names_that_would_add_an_argument_are_refused() {
        for bad in [
            "a;K8S_POD_UID=0",
            "a=b",
            "a b",
            "a\nb",
            "a\0",
            "é",
            &"x".repeat(254),
        ] {
            assert!(
                PodNetwork {
                    name: bad.into(),
                    ..pod()
                }
                .validate()
                .is_err(),
                "{bad:?}"
            );
            assert!(
                PodNetwork {
                    namespace: bad.into(),
                    ..pod()
                }
                .validate()
                .is_err(),
                "{bad:?}"
            );
            assert!(
                PodNetwork {
                    uid: bad.into(),
                    ..pod()
                }
                .validate()
                .is_err(),
                "{bad:?}"
            );
        }
        pod().validate().unwrap();
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, value) in [
            ("1k", 1_000),
            ("1.5M", 1_500_000),
            ("2Ki", 2_048),
            ("1e6", 1_000_000),
            ("7", 7),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for bad in [
            "",
            "M",
            "-1",
            "1X",
            "1e",
            "99999999999999999999",
            "1e99",
            ".",
            "1.2.3",
        ] {
            assert!(
                quantity(bad).is_none_or(|rate| !BANDWIDTH.contains(&rate)),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_quantity_panics(text in ".{0,24}") {
            let _ = quantity(&text);
        }
    }
}
