//! Network namespaces, links, addresses, routes, firewall rules, unix sockets.

use anyhow::{Context, Result};

use super::Census;
use crate::node::Node;

pub(super) fn collect(node: &Node, census: &mut Census) -> Result<()> {
    namespaces(node, census);
    links(node, census)?;
    routes(node, census)?;
    rules(node, census)?;
    sockets(node, census)
}

fn namespaces(node: &Node, census: &mut Census) {
    let Ok(entries) = std::fs::read_dir(node.path("/run/netns")) else {
        return;
    };
    for entry in entries.flatten() {
        census.add("network namespaces", entry.file_name().to_string_lossy());
    }
}

fn links(node: &Node, census: &mut Census) -> Result<()> {
    let text = node.run("ip", &["-json", "-details", "address", "show"])?;
    let links: Vec<serde_json::Value> =
        serde_json::from_str(&text).context("ip -json address says something else than JSON")?;
    for link in links {
        let name = link["ifname"].as_str().unwrap_or_default();
        // Kernels built with these make one of each in every namespace.
        let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or("plain");
        let master = link["master"]
            .as_str()
            .map(|master| format!(" in {master}"))
            .unwrap_or_default();
        census.add("links", format!("{name} ({kind}){master}"));
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let local = address["local"].as_str().unwrap_or_default();
            // A link-local address comes some seconds after a bridge gets its first port.
            if !local.starts_with("fe80:") {
                census.add(
                    "addresses",
                    format!("{local}/{} dev {name}", address["prefixlen"]),
                );
            }
        }
    }
    Ok(())
}

fn routes(node: &Node, census: &mut Census) -> Result<()> {
    for family in ["-4", "-6"] {
        for line in node
            .run("ip", &[family, "route", "show", "table", "all"])?
            .lines()
        {
            // Link-local and multicast routes follow the addresses that are left out above; linkdown
            // says whether a bridge has a port, which the links tell.
            if !line.contains("fe80:") && !line.contains("ff00::") {
                census.add("routes", line.replace(" linkdown", "").trim().to_owned());
            }
        }
    }
    Ok(())
}

/// Lines with their table before them, without handles and packet counts.
fn rules(node: &Node, census: &mut Census) -> Result<()> {
    let mut table = String::new();
    for line in node.run("nft", &["--stateless", "list", "ruleset"])?.lines() {
        // nft tells in a comment that iptables manages a table.
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with("table ") {
            table = line.trim_end_matches(" {").to_owned();
        }
        let rule = line.trim();
        if rule != "}" && !rule.is_empty() {
            census.add("nft rules", format!("{table}: {rule}"));
        }
    }
    for tool in ["iptables-save", "ip6tables-save"] {
        for line in node.run(tool, &[])?.lines() {
            // Chains carry counters in brackets, comments carry the time.
            if !line.starts_with('#') {
                let rule = line.split_once(" [").map_or(line, |(rule, _)| rule);
                census.add("iptables rules", format!("{tool}: {rule}"));
            }
        }
    }
    Ok(())
}

fn sockets(node: &Node, census: &mut Census) -> Result<()> {
    let path = format!("/proc/{}/net/unix", node.init());
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    for line in text.lines().skip(1) {
        let mut fields = line.split_whitespace();
        // Bit 16 of the flags says that it listens (net/unix/af_unix.c); connections are seen as
        // descriptors.
        let listens = fields.nth(3).is_some_and(|flags| flags == "00010000");
        if let (true, Some(name)) = (listens, fields.nth(3)) {
            census.add("listening sockets", name.to_owned());
        }
    }
    Ok(())
}
