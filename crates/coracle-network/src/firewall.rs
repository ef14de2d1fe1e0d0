//! The instance's nft table: masquerading and port maps, each change one transaction over netlink.
//!
//! What memory says is what the kernel shall have. A change that the kernel refuses because
//! somebody flushed the table (`nft flush ruleset`) leads to one transaction that builds it anew.

mod conntrack;
mod expressions;
mod ruleset;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_types::PodSandboxId;
use coracle_types::pod::Protocol;
use ipnet::IpNet;
use rustix::io::Errno;

use crate::netlink::{Batch, Socket};
use crate::{NetlinkError, PluginError};
use ruleset::Ruleset;

/// A port of the host that leads into a pod. Which family it is of, the target says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRule {
    pub(crate) protocol: Protocol,
    /// The host's address; `None` is every one of the target's family.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) target: SocketAddr,
}

impl PortRule {
    fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.port == other.port
            && self.target.is_ipv4() == other.target.is_ipv4()
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// What pods need of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    /// Networks whose pods leave with the host's address.
    pub(crate) masquerade: BTreeSet<IpNet>,
    /// Networks whose pods may reach each other by ports of the host.
    pub(crate) hairpin: BTreeSet<IpNet>,
    /// Ports by the pod that has them.
    pub(crate) ports: BTreeMap<PodSandboxId, Vec<PortRule>>,
}

impl Needs {
    pub(crate) fn is_empty(&self) -> bool {
        self.masquerade.is_empty() && self.hairpin.is_empty() && self.ports.is_empty()
    }
}

#[derive(Debug, Default)]
struct State {
    is_built: bool,
    needs: Needs,
    /// Kept open: closing one makes the kernel finish deletions at once, for which it waits 10 ms.
    socket: Option<Socket>,
}

impl State {
    fn socket(&mut self) -> Result<&mut Socket, NetlinkError> {
        if self.socket.is_none() {
            self.socket = Some(Socket::netfilter()?);
        }
        Ok(self.socket.as_mut().expect("opened above"))
    }

    /// Sends one transaction. After a failure of the socket itself the next one gets another.
    fn transact(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        let socket = self.socket()?;
        if batch.len() > 32 * 1024 {
            socket.make_room(batch.len() * 4);
        }
        let sent = socket.send_all(batch);
        if !matches!(sent, Ok(()) | Err(NetlinkError::Refused { .. })) {
            self.socket = None;
        }
        sent
    }
}

/// The table, and what it shall hold.
#[derive(Debug)]
pub(crate) struct Firewall {
    ruleset: Ruleset,
    state: Mutex<State>,
}

impl Firewall {
    pub(crate) fn new(table: String) -> Self {
        Self {
            ruleset: Ruleset::new(table),
            state: Mutex::default(),
        }
    }

    /// Takes over what pods of an earlier run need.
    pub(crate) fn restore(&self, needs: Needs) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.needs = needs;
        if state.needs.is_empty() {
            return Ok(());
        }
        self.build(&mut state)
    }

    /// Makes pods of these networks leave with the host's address.
    pub(crate) fn masquerade(&self, networks: &[IpNet]) -> Result<(), PluginError> {
        let mut state = self.state();
        let new: Vec<IpNet> = networks
            .iter()
            .filter(|net| state.needs.masquerade.insert(**net))
            .copied()
            .collect();
        if new.is_empty() && state.is_built {
            return Ok(());
        }
        let applied = self.apply(&mut state, |batch, rules| {
            new.iter().for_each(|net| rules.masquerade(batch, *net))
        });
        applied.map_err(|source| {
            new.iter().for_each(|net| {
                state.needs.masquerade.remove(net);
            });
            failed("masquerade", &new, source)
        })
    }

    /// Leads ports of the host into the pod; `networks` are those it has addresses in.
    pub(crate) fn map_ports(
        &self,
        pod: &PodSandboxId,
        rules: &[PortRule],
        networks: &[IpNet],
    ) -> Result<(), PluginError> {
        let mut state = self.state();
        refuse_collisions(&state.needs, pod, rules)?;
        let new: Vec<IpNet> = networks
            .iter()
            .filter(|net| state.needs.hairpin.insert(**net))
            .copied()
            .collect();
        state.needs.ports.insert(pod.clone(), rules.to_vec());
        let applied = self.apply(&mut state, |batch, ruleset| {
            new.iter().for_each(|net| ruleset.hairpin(batch, *net));
            ruleset.elements(batch, rules, true);
        });
        if let Err(source) = applied {
            state.needs.ports.remove(pod);
            new.iter().for_each(|net| {
                state.needs.hairpin.remove(net);
            });
            let subject = format!("{} ports of pod {pod}", rules.len());
            return Err(PluginError::Netlink {
                operation: "map",
                subject,
                source,
            });
        }
        let udp: Vec<u16> = rules
            .iter()
            .filter(|rule| rule.protocol == Protocol::Udp)
            .map(|rule| rule.port)
            .collect();
        if !udp.is_empty()
            && let Err(error) = state
                .socket()
                .and_then(|socket| conntrack::forget_udp(socket, &udp))
        {
            // Only flows that began before the mapping are affected, until they time out.
            tracing::debug!(%error, "stale UDP flows are not forgotten");
        }
        Ok(())
    }

    /// Takes the pod's ports back. Idempotent.
    pub(crate) fn unmap_ports(&self, pod: &PodSandboxId) -> Result<(), PluginError> {
        let mut state = self.state();
        let Some(rules) = state.needs.ports.remove(pod) else {
            return Ok(());
        };
        let removed = self.apply(&mut state, |batch, ruleset| {
            ruleset.elements(batch, &rules, false)
        });
        removed.map_err(|source| {
            let subject = format!("{} ports of pod {pod}", rules.len());
            state.needs.ports.insert(pod.clone(), rules);
            PluginError::Netlink {
                operation: "unmap",
                subject,
                source,
            }
        })
    }

    /// Every port map there is to be, by pod.
    pub(crate) fn port_rules(&self) -> Vec<(PodSandboxId, PortRule)> {
        let state = self.state();
        let ports = state.needs.ports.iter();
        ports
            .flat_map(|(pod, rules)| rules.iter().map(move |rule| (pod.clone(), *rule)))
            .collect()
    }

    /// Whether the kernel has every port map of the pod.
    pub(crate) fn check(&self, pod: &PodSandboxId, rules: &[PortRule]) -> Result<(), PluginError> {
        let mut state = self.state();
        let socket = state.socket().map_err(|source| failed("check", &[], source))?;
        for rule in rules {
            let request = self.ruleset.lookup(rule);
            match socket.exchange(&request, false, |_| Ok(())) {
                Ok(()) => {}
                Err(error) if error.is(Errno::NOENT) => {
                    return Err(PluginError::Missing {
                        missing: format!(
                            "the map of host port {}/{:?} to pod {pod}",
                            rule.port, rule.protocol
                        ),
                    });
                }
                Err(source) => return Err(failed("check", &[], source)),
            }
        }
        Ok(())
    }

    /// Removes the table; the needs of pods stay known and bring it back when one changes.
    pub(crate) fn remove(&self) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.is_built = false;
        match state.transact(&self.ruleset.removal()) {
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed only in whole steps, so a panic elsewhere leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction of the change, or of the whole table when it is not there.
    fn apply(
        &self,
        state: &mut State,
        change: impl FnOnce(&mut Batch, &Ruleset),
    ) -> Result<(), NetlinkError> {
        if state.is_built {
            let mut batch = ruleset::begin();
            change(&mut batch, &self.ruleset);
            ruleset::end(&mut batch);
            match state.transact(&batch) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, table = self.ruleset.table(), "rebuilding the nft table")
                }
            }
        }
        self.build(state)
    }

    fn build(&self, state: &mut State) -> Result<(), NetlinkError> {
        state.is_built = false;
        let whole = self.ruleset.whole(&state.needs);
        state.transact(&whole)?;
        state.is_built = true;
        Ok(())
    }
}

fn refuse_collisions(needs: &Needs, pod: &PodSandboxId, rules: &[PortRule]) -> Result<(), PluginError> {
    for (place, rule) in rules.iter().enumerate() {
        let holder = if rules[..place].iter().any(|earlier| earlier.collides(rule)) {
            Some(pod)
        } else {
            needs
                .ports
                .iter()
                .find(|(other, theirs)| *other != pod && theirs.iter().any(|their| their.collides(rule)))
                .map(|(other, _)| other)
        };
        if let Some(holder) = holder {
            return Err(PluginError::PortInUse {
                protocol: rule.protocol,
                port: rule.port,
                address: rule.address,
                holder: format!("pod {holder}"),
            });
        }
    }
    Ok(())
}

fn failed(operation: &'static str, networks: &[IpNet], source: NetlinkError) -> PluginError {
    let networks: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    let subject = if networks.is_empty() {
        "the nft table".into()
    } else {
        networks.join(", ")
    };
    PluginError::Netlink {
        operation,
        subject,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(address: Option<&str>, target: &str) -> PortRule {
        PortRule {
            protocol: Protocol::Tcp,
            address: address.map(|text| text.parse().unwrap()),
            port: 80,
            target: target.parse().unwrap(),
        }
    }

    #[test]
    fn a_port_is_one_pods_on_each_address() {
        let (a, b) = (PodSandboxId::generate(), PodSandboxId::generate());
        let mut needs = Needs::default();
        needs
            .ports
            .insert(a.clone(), vec![rule(Some("10.0.0.1"), "10.1.0.2:8080")]);
        let refuse = |rule: PortRule| refuse_collisions(&needs, &b, &[rule]);
        assert!(refuse(rule(Some("10.0.0.2"), "10.1.0.3:80")).is_ok());
        assert!(refuse(rule(None, "[fd00::3]:80")).is_ok(), "another family");
        assert!(
            refuse(PortRule {
                protocol: Protocol::Udp,
                ..rule(None, "10.1.0.3:80")
            })
            .is_ok()
        );
        let error = refuse(rule(None, "10.1.0.3:80")).unwrap_err();
        assert!(error.to_string().contains(a.as_str()), "{error}");
        assert!(
            refuse_collisions(&needs, &a, &[rule(None, "10.1.0.2:1")]).is_ok(),
            "its own, anew"
        );
        assert!(
            refuse_collisions(
                &Needs::default(),
                &a,
                &[rule(None, "10.1.0.2:1"), rule(None, "10.1.0.2:2")]
            )
            .is_err()
        );
    }
}
