//! Network configurations as an operator would put them into /etc/cni/net.d.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::node::Node;

/// Writes the usual configuration: a bridge with masquerading, host-local addresses, port maps.
///
/// # Errors
/// When it cannot be written.
pub fn bridge(node: &Node, subnet: &str) -> Result<()> {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": subnet }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    node.write(
        "/etc/cni/net.d/10-pods.conflist",
        serde_json::to_vec_pretty(&list)?,
    )
}

/// Directories that hold CNI plugins: of PATH the one with `bridge`, then the usual ones.
#[must_use]
pub fn plugin_directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")];
    std::env::split_paths(&path)
        .chain(usual)
        .filter(|directory| directory.join("bridge").is_file() && directory.join("host-local").is_file())
        .collect()
}
