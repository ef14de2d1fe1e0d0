//! The plugin `loopback`: `lo` of the pod is up.

use std::path::Path;

use crate::cni::result::{CniResult, Interface, IpConfig};
use crate::netlink::{Batch, route};
use crate::{PluginError, netns};

/// ADD and CHECK: sets `lo` up, which it is in namespaces of our own making.
pub(crate) fn add(path: &Path) -> Result<(), PluginError> {
    let failed = |source| PluginError::Netlink {
        operation: "set up",
        subject: "lo".into(),
        source,
    };
    let file = netns::open(path).map_err(|source| PluginError::File {
        operation: "open network namespace",
        path: path.into(),
        source,
    })?;
    let mut socket = netns::route_socket(std::os::fd::AsFd::as_fd(&file)).map_err(failed)?;
    let mut batch = Batch::default();
    route::set_up(&mut batch, netns::LOOPBACK_INDEX, false);
    socket.send_all(&batch).map_err(failed)
}

/// What the plugin answers when it is the first of its chain.
pub(crate) fn result(path: &Path) -> CniResult {
    CniResult {
        interfaces: vec![Interface {
            name: "lo".into(),
            mac: "00:00:00:00:00:00".into(),
            sandbox: path.display().to_string(),
            ..Interface::default()
        }],
        ips: ["127.0.0.1/8", "::1/128"]
            .into_iter()
            .map(|address| IpConfig {
                interface: Some(0),
                address: address.parse().expect("a constant network"),
                gateway: None,
            })
            .collect(),
        ..CniResult::default()
    }
}
