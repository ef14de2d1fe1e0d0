//! Links and rules by making some in a namespace of their own; configurations, plugins, switches.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::State::{Broken, Costs, Unknown};
use crate::{Finding, Subject, Topic};

/// Plugins that run in the daemon itself as long as their options are known to it.
const IN_PROCESS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
/// Name servers of a configuration that are only reached from the host.
const LOCAL: [&str; 2] = ["127.", "::1"];

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = made();
    findings.extend([
        forwarding(subject),
        bridged(subject),
        configuration(subject),
        plugins(subject),
        resolver(subject),
    ]);
    findings
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Network, name, seen)
}

/// What a pod's network is made of, tried.
fn made() -> Vec<Finding> {
    let support = match coracle_network::probe_support() {
        Ok(support) => support,
        Err(words) if !Subject::is_root() => {
            let unknown = finding("links and rules", format!("not tried: {words}"));
            return vec![unknown.but(
                Unknown,
                "this user may make no network namespace",
                "run this as root",
            )];
        }
        Err(words) => {
            let broken = finding("network namespaces", words);
            return vec![broken.but(
                Broken,
                "no pod gets a network of its own",
                "run a kernel with CONFIG_NET_NS",
            )];
        }
    };
    let one = |name: &'static str, made: Result<(), String>, cost: &str, remedy: &str| match made {
        Ok(()) => finding(name, "works"),
        Err(words) => finding(name, words).but(Broken, cost, remedy),
    };
    vec![
        one(
            "bridge",
            support.bridge,
            "networks of type bridge, the default one too, cannot be made",
            "modprobe bridge, and name it in /etc/modules-load.d",
        ),
        one(
            "veth",
            support.veth,
            "pods cannot be linked to the node",
            "modprobe veth, and name it in /etc/modules-load.d",
        ),
        one(
            "nftables",
            support.nftables,
            "no masquerading and no published ports",
            "modprobe -a nf_tables nft_masq nft_nat, and name them in /etc/modules-load.d",
        ),
    ]
}

fn forwarding(subject: &Subject) -> Finding {
    let on = |path: &str| subject.number(path) == Some(1);
    let four = on("/proc/sys/net/ipv4/ip_forward");
    let six = on("/proc/sys/net/ipv6/conf/all/forwarding");
    let word = |on: bool| if on { "on" } else { "off" };
    finding("forwarding", format!("IPv4 {}, IPv6 {}", word(four), word(six))).unless(
        four,
        Costs,
        "pods reach nothing beyond this node until it is on; the daemon turns it on with its first bridge",
        "sysctl -w net.ipv4.ip_forward=1, and a file in /etc/sysctl.d",
    )
}

fn bridged(subject: &Subject) -> Finding {
    const NAME: &str = "br_netfilter";
    match subject.number("/proc/sys/net/bridge/bridge-nf-call-iptables") {
        Some(1) => finding(NAME, "on"),
        seen => finding(NAME, if seen.is_some() { "off" } else { "not loaded" }).but(
            Costs,
            "kube-proxy's iptables mode misses traffic from a pod to a service whose pod is on the same bridge",
            "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
    }
}

/// The first configuration by name is the one that counts.
fn first_configuration(subject: &Subject) -> Option<(String, Result<Value, String>)> {
    let name = subject.names(&subject.cni_conf_dir).into_iter().find(|name| {
        [".conf", ".conflist", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
    })?;
    let text = subject.text(subject.cni_conf_dir.join(&name)).unwrap_or_default();
    let value = serde_json::from_str(&text).map_err(|error| error.to_string());
    Some((name, value))
}

fn configuration(subject: &Subject) -> Finding {
    const NAME: &str = "CNI configuration";
    let directory = subject.cni_conf_dir.display();
    let makes_one = subject
        .configuration
        .as_ref()
        .is_none_or(|configuration| configuration.default_network);
    match first_configuration(subject) {
        None if !makes_one => finding(NAME, format!("none in {directory}")).but(
            Broken,
            "no pod gets a network: network.default_network = false forbids the daemon to make one",
            "install the cluster's network add-on, or say network.default_network = true",
        ),
        None => finding(NAME, format!("none in {directory}")).but(
            Costs,
            "the daemon makes a bridge of its own, whose pods no other node can reach",
            "install the cluster's network add-on; for a single node this is well",
        ),
        Some((name, Err(words))) => finding(NAME, format!("{name}: {words}")).but(
            Broken,
            "no pod gets a network",
            format!("mend {directory}/{name}, or take it away"),
        ),
        Some((name, Ok(value))) => {
            let network = value
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or("without a name");
            finding(NAME, format!("{name}: network {network}"))
        }
    }
}

/// Types of the plugins that a configuration names, with those that give addresses.
fn types(configuration: &Value) -> BTreeSet<String> {
    let single = [configuration.clone()];
    let plugins = match configuration.get("plugins").and_then(Value::as_array) {
        Some(plugins) => plugins.as_slice(),
        None => &single,
    };
    let of = |plugin: &Value| {
        let own = plugin.get("type").and_then(Value::as_str).map(str::to_owned);
        let ipam = plugin
            .pointer("/ipam/type")
            .and_then(Value::as_str)
            .map(str::to_owned);
        own.into_iter().chain(ipam)
    };
    plugins.iter().flat_map(of).collect()
}

fn plugins(subject: &Subject) -> Finding {
    const NAME: &str = "CNI plugins";
    let named = match first_configuration(subject) {
        Some((_, Ok(value))) => types(&value),
        _ => return finding(NAME, "none is named"),
    };
    let there = |name: &String| subject.cni_bin_dirs.iter().any(|dir| subject.has(dir.join(name)));
    let (inside, outside): (Vec<_>, Vec<_>) =
        named.iter().partition(|name| IN_PROCESS.contains(&name.as_str()));
    let lacking: Vec<_> = outside
        .iter()
        .filter(|name| !there(name))
        .map(|name| name.as_str())
        .collect();
    let join = |names: &[&String]| {
        names
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut seen = Vec::new();
    if !inside.is_empty() {
        seen.push(format!("{} in the daemon", join(&inside)));
    }
    if !outside.is_empty() {
        seen.push(format!("{} as programs", join(&outside)));
    }
    let directories: Vec<_> = subject
        .cni_bin_dirs
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    finding(NAME, seen.join("; ")).unless(
        lacking.is_empty(),
        Broken,
        format!("no pod gets a network: {} is not there", lacking.join(", ")),
        format!("install it into one of {}", directories.join(", ")),
    )
}

fn resolver(subject: &Subject) -> Finding {
    const NAME: &str = "name servers";
    let text = subject.text("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .map(str::trim)
        .collect();
    if servers.is_empty() {
        return finding(NAME, "none in /etc/resolv.conf").but(
            Costs,
            "images are pulled by address only, and pods with the node's DNS find no names",
            "name one in /etc/resolv.conf",
        );
    }
    let local = servers
        .iter()
        .all(|server| LOCAL.iter().any(|start| server.starts_with(start)));
    let real = "/run/systemd/resolve/resolv.conf";
    let remedy = if subject.has(Path::new(real)) {
        format!("say resolvConf: {real} in the kubelet's configuration")
    } else {
        "give the kubelet a resolvConf with servers that pods can reach".to_owned()
    };
    finding(NAME, servers.join(", ")).unless(
        !local,
        Costs,
        "pods with the node's DNS ask their own loopback, where nobody answers",
        remedy,
    )
}
