//! Registries to pull from: Debian's docker-registry for the real thing, and one of our own that fails
//! on demand.

pub mod client;
pub mod distribution;
pub mod faulty;

pub use client::RegistryClient;
pub use distribution::{Access, Distribution};
pub use faulty::{Fault, FaultyRegistry, Login, Trouble};

use anyhow::Result;

use crate::node::Node;

/// The account that a registry with a login accepts.
pub const USER: &str = "coracle";
/// Its password; a test checks that it turns up in no log.
pub const PASSWORD: &str = "s3cret";

/// Lets a node's daemon fetch what it believes to come from `host` at `authority`, over plain HTTP, by
/// a `hosts.toml` as containerd documents it.
///
/// # Errors
/// When the file cannot be written.
pub fn mirror(node: &Node, host: &str, authority: &str) -> Result<()> {
    let content = format!(
        "server = \"http://{authority}\"\n\n[host.\"http://{authority}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    node.write(format!("/etc/containerd/certs.d/{host}/hosts.toml"), content)
}
