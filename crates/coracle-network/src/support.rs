//! What the kernel offers to networks of pods, tried in a network namespace that is thrown away.

use std::thread;

use crate::NetlinkError;
use crate::firewall::{Firewall, Needs};
use crate::netlink::{Batch, Socket, route};

/// Whether the things of which a pod's network is made can be made; else the kernel's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// A bridge.
    pub bridge: Result<(), String>,
    /// A pair of virtual links, one of them the bridge's port.
    pub veth: Result<(), String>,
    /// A table with masquerading.
    pub nftables: Result<(), String>,
}

/// Tries each. Nothing of it is seen outside, and nothing stays.
///
/// # Errors
/// In words, when no network namespace can be made: mostly for want of CAP_SYS_ADMIN.
pub fn probe_support() -> Result<Support, String> {
    let attempt = thread::Builder::new().name("probe".into()).spawn(|| {
        let netns = coracle_sys::netns::unshare_network().map_err(|error| error.to_string())?;
        Ok(attempt(&netns))
    });
    attempt
        .map_err(|error| error.to_string())?
        .join()
        .unwrap_or_else(|_| Err("the attempt panicked".to_owned()))
}

/// Runs on a thread that is in the namespace.
fn attempt(netns: &std::os::fd::OwnedFd) -> Support {
    const BRIDGE: &str = "probe0";
    let links = || -> Result<Socket, NetlinkError> {
        let mut socket = Socket::route()?;
        let mut batch = Batch::default();
        route::add_bridge(&mut batch, BRIDGE, [2, 0, 0, 0, 0, 1], None, false);
        socket.send_all(&batch)?;
        Ok(socket)
    };
    let (bridge, veth) = match links() {
        Ok(mut socket) => (Ok(()), pair(&mut socket, BRIDGE, netns)),
        Err(error) => (Err(words(&error)), Err("not tried without a bridge".to_owned())),
    };
    let needs = Needs {
        masquerade: [ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8).into()].into(),
        ..Needs::default()
    };
    let nftables = Firewall::new("probe".to_owned()).restore(needs);
    Support {
        bridge,
        veth,
        nftables: nftables.map_err(|error| words(&error)),
    }
}

fn pair(socket: &mut Socket, bridge: &str, netns: &std::os::fd::OwnedFd) -> Result<(), String> {
    use std::os::fd::AsRawFd;
    let link = route::link(socket, bridge).map_err(|error| words(&error))?;
    let link = link.ok_or("the bridge is gone again")?;
    let mut batch = Batch::default();
    route::add_veth(
        &mut batch,
        &route::Veth {
            host_name: "probe1",
            host_mac: [2, 0, 0, 0, 0, 2],
            bridge: link.index,
            pod_name: "probe2",
            pod_mac: [2, 0, 0, 0, 0, 3],
            netns: netns.as_raw_fd(),
            mtu: None,
        },
    );
    socket.send_all(&batch).map_err(|error| words(&error))
}

/// The error with its causes.
fn words(error: &NetlinkError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_can_make_a_pods_network_here() {
        let well = Support {
            bridge: Ok(()),
            veth: Ok(()),
            nftables: Ok(()),
        };
        assert_eq!(probe_support(), Ok(well));
    }
}
