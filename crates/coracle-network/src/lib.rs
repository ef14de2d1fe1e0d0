//! Networks of pods: CNI configurations and results, the stock plugins in process, any other by exec.
//!
//! Owns: the directory of CNI configurations and its changes; network namespaces of pods; address
//! reservations (shared with the `host-local` plugin, same files and lock); one nft table for
//! masquerading and port maps; the cache of results. Must never know what runs in a pod, or
//! touch a table, bridge or file that does not carry the instance's name or the configuration's.
//!
//! The plugins `bridge` (with `host-local`), `loopback` and `portmap` run in process as long as
//! their configuration uses only options known here; with any other option the real program runs.
//!
//! On disk:
//! - `<state dir>/<pod id>.json`: the attachment with its configuration and result, for DEL, CHECK
//!   and a restart. Written before the first plugin runs, by write and rename; on tmpfs, not synced.
//! - `<data dir>/<network>/{<ip>, last_reserved_ip.<n>, lock}`: host-local's. Under flock of `lock`.
//!   Outlives the boot, so a pod that died with it is detached like any other.
//! - `<netns dir>/<instance>-<pod id>`: pinned network namespaces. A reboot clears them.
//!
//! In the kernel, of the instance itself and not of a pod: the bridge, the nft table
//! `inet <instance>-pods`, and ip forwarding.

mod cni;
mod counters;
mod error;
mod firewall;
mod links;
mod names;
mod netlink;
mod netns;
mod networks;
mod node;
mod plugins;
mod pod;
mod settings;
mod support;

pub use counters::{InterfaceCounters, Traffic};
pub use error::{Error, NetlinkError, NetworkNotReady, PluginError};
pub use names::POD_INTERFACE;
pub use networks::Networks;
pub use pod::{AttachedInterface, Attachment, NetworkObject, PodNetwork};
pub use settings::{AddressPreference, DefaultNetwork, NetworksConfig};
pub use support::{Support, probe_support};
