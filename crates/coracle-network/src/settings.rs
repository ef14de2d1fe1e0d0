//! What a node's operator decides about pod networks.

use std::path::PathBuf;
use std::time::Duration;

use coracle_types::Instance;
use ipnet::IpNet;

/// Linux refuses interface names of more than this many bytes (IFNAMSIZ - 1).
pub(crate) const LONGEST_LINK_NAME: usize = 15;

/// Settings of [`Networks`](crate::Networks), already validated by whoever read them.
#[derive(Debug, Clone)]
pub struct NetworksConfig {
    /// Whose objects these are; part of every global name.
    pub instance: Instance,
    /// Directory of CNI configurations, usually `/etc/cni/net.d`. It may appear later.
    pub conf_dir: PathBuf,
    /// Where plugins' programs are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Results of attachments are kept here; on tmpfs, since they do not outlive the boot.
    pub state_dir: PathBuf,
    /// Where network namespaces are pinned, `/run/netns` so that `ip netns` sees them.
    pub netns_dir: PathBuf,
    /// The network to use while `conf_dir` holds none; `None` leaves pods waiting for one.
    pub default_network: Option<DefaultNetwork>,
    /// How long one run of a plugin's program may take.
    pub plugin_deadline: Duration,
    /// Which family's address of a dual-stack pod is its first.
    pub address_preference: AddressPreference,
}

impl NetworksConfig {
    /// The usual places of a node for this instance.
    #[must_use]
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec![
                "/opt/cni/bin".into(),
                "/usr/lib/cni".into(),
                "/usr/libexec/cni".into(),
            ],
            state_dir: "/run/coracle/network".into(),
            netns_dir: "/run/netns".into(),
            default_network: None,
            plugin_deadline: Duration::from_secs(60),
            address_preference: AddressPreference::default(),
        }
    }

    /// The default network's bridge: `<instance>0`, cut so that the kernel takes it. A name that
    /// had to be cut ends in a digest of the whole, lest two long instance names meet.
    #[must_use]
    pub fn default_bridge(&self) -> String {
        let instance = self.instance.as_str();
        if instance.len() < LONGEST_LINK_NAME {
            return format!("{instance}0");
        }
        let digest = crate::names::fnv1a(instance.as_bytes()) & 0xffff_ffff;
        format!("{}{digest:08x}0", &instance[..LONGEST_LINK_NAME - 9])
    }

    /// The nft table of family `inet` that holds all of this instance's rules.
    #[must_use]
    pub fn firewall_table(&self) -> String {
        format!("{}-pods", self.instance)
    }
}

/// A bridge network made up when none is configured.
#[derive(Debug, Clone)]
pub struct DefaultNetwork {
    /// Where pods' addresses come from: one IPv4 or IPv6 network, or one of each.
    pub subnets: Vec<IpNet>,
    /// Where address reservations are kept, in a directory by the network's name;
    /// `/var/lib/cni/networks` is host-local's own.
    pub data_dir: PathBuf,
}

impl Default for DefaultNetwork {
    fn default() -> Self {
        Self {
            subnets: vec![IpNet::V4(ipnet::Ipv4Net::new_assert([10, 88, 0, 0].into(), 16))],
            data_dir: "/var/lib/cni/networks".into(),
        }
    }
}

/// Which family's address of a dual-stack pod is its first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AddressPreference {
    /// IPv4 before IPv6.
    #[default]
    Ipv4,
    /// IPv6 before IPv4.
    Ipv6,
    /// As the network's result has them.
    AsGiven,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bridge_fits_the_kernel_and_keeps_instances_apart() {
        let name = |instance: &str| NetworksConfig::new(instance.parse().unwrap()).default_bridge();
        assert_eq!(name("coracle"), "coracle0");
        assert_eq!(name("fourteen-chars"), "fourteen-chars0");
        let (a, b) = (name("a-rather-long-instance-1"), name("a-rather-long-instance-2"));
        assert_eq!(a.len(), LONGEST_LINK_NAME);
        assert_ne!(a, b);
    }
}
