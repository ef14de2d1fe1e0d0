//! Capabilities: the five sets of a container from what it adds, drops and wants ambient.

use std::collections::BTreeSet;
use std::str::FromStr;

use coracle_types::security::{Capabilities as Requested, ContainerSecurityContext};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::error::SpecError;
use crate::host::Host;
use crate::input::HandlerDefaults;

/// In the kernel's order (linux/capability.h): the index is the bit.
const BY_BIT: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What a container gets when nothing is said: the set that containerd and Docker give.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The full name, `CAP_` and all.
pub(crate) fn name(capability: Capability) -> String {
    format!("CAP_{capability}")
}

/// The names of the bits that are set.
pub(crate) fn from_mask(mask: u64) -> BTreeSet<String> {
    BY_BIT
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, capability)| name(*capability))
        .collect()
}

/// The bit of one capability.
pub(crate) fn mask_of(capability: Capability) -> u64 {
    BY_BIT
        .iter()
        .position(|known| *known == capability)
        .map_or(0, |bit| 1 << bit)
}

/// One name of a request: any case, with or without `CAP_`; `None` is `ALL`.
fn parse(field: &str, text: &str) -> Result<Option<Capability>, SpecError> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(None);
    }
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(short)
        .map(Some)
        .map_err(|_| SpecError::field(field, text, "use a capability of capabilities(7) or ALL"))
}

fn parse_list(field: &str, list: &[String]) -> Result<(bool, BTreeSet<String>), SpecError> {
    let (mut all, mut names) = (false, BTreeSet::new());
    for text in list {
        match parse(field, text)? {
            None => all = true,
            Some(capability) => {
                names.insert(name(capability));
            }
        }
    }
    Ok((all, names))
}

/// Refuses names that no kernel knows.
pub(crate) fn validate(requested: &Requested) -> Result<(), SpecError> {
    const PREFIX: &str = "linux.security_context.capabilities";
    parse_list(&format!("{PREFIX}.add_capabilities"), &requested.add)?;
    parse_list(&format!("{PREFIX}.drop_capabilities"), &requested.drop)?;
    parse_list(
        &format!("{PREFIX}.add_ambient_capabilities"),
        &requested.add_ambient,
    )?;
    Ok(())
}

/// The five sets. A privileged container has all that the daemon can give, whatever it drops.
///
/// The inheritable set is empty (CVE-2022-29162) but for what is asked to be ambient: the kernel
/// takes nothing into the ambient set that is not inheritable (capabilities(7)). `ALL` is handled
/// first, single names after it, drops last. What the daemon itself lacks is left out, as runc does.
pub(crate) fn linux_capabilities(
    security: &ContainerSecurityContext,
    defaults: &HandlerDefaults,
    host: &Host,
) -> Result<LinuxCapabilities, SpecError> {
    let requested = &security.capabilities;
    let (mut granted, mut ambient) = if security.privileged {
        (host.capabilities.clone(), BTreeSet::new())
    } else {
        let mut granted: BTreeSet<String> = match &defaults.capabilities {
            Some(list) => parse_list("capabilities of the runtime handler", list)?.1,
            None => DEFAULT.into_iter().map(name).collect(),
        };
        let (add_all, added) = parse_list("add_capabilities", &requested.add)?;
        let (drop_all, dropped) = parse_list("drop_capabilities", &requested.drop)?;
        let (ambient_all, ambient) = parse_list("add_ambient_capabilities", &requested.add_ambient)?;
        if add_all {
            granted = host.capabilities.clone();
        }
        if drop_all {
            granted.clear();
        }
        granted.extend(added);
        granted.extend(ambient.iter().cloned());
        granted.retain(|name| !dropped.contains(name));
        let ambient = if ambient_all { granted.clone() } else { ambient };
        (granted, ambient)
    };
    granted.retain(|name| host.capabilities.contains(name));
    ambient.retain(|name| granted.contains(name));
    let set = |names: &BTreeSet<String>| -> Capabilities {
        names
            .iter()
            .filter_map(|name| Capability::from_str(name.strip_prefix("CAP_").unwrap_or(name)).ok())
            .collect()
    };
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set(&granted))
        .effective(set(&granted))
        .permitted(set(&granted))
        .inheritable(set(&ambient))
        .ambient(set(&ambient))
        .build()
        .expect("every field of the builder has a default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            capabilities: from_mask((1 << 41) - 1),
            ..Host::probe()
        }
    }

    fn sets(add: &[&str], drop: &[&str], ambient: &[&str]) -> LinuxCapabilities {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let security = ContainerSecurityContext {
            capabilities: Requested {
                add: list(add),
                drop: list(drop),
                add_ambient: list(ambient),
            },
            ..Default::default()
        };
        linux_capabilities(&security, &HandlerDefaults::default(), &host()).expect("known names")
    }

    fn len(set: &Option<Capabilities>) -> usize {
        set.as_ref().map_or(0, std::collections::HashSet::len)
    }

    #[test]
    fn nothing_is_inherited_unless_ambient() {
        let plain = sets(&[], &[], &[]);
        assert_eq!(
            (
                len(plain.effective()),
                len(plain.inheritable()),
                len(plain.ambient())
            ),
            (14, 0, 0)
        );
        let ambient = sets(&[], &[], &["net_admin"]);
        assert_eq!(
            (
                len(ambient.effective()),
                len(ambient.inheritable()),
                len(ambient.ambient())
            ),
            (15, 1, 1)
        );
    }

    #[test]
    fn all_comes_first_and_drops_come_last() {
        assert_eq!(len(sets(&["ALL"], &["CHOWN"], &[]).bounding()), 40);
        assert_eq!(len(sets(&["CAP_NET_ADMIN"], &["all"], &[]).bounding()), 1);
        assert_eq!(
            len(sets(&["NET_ADMIN"], &["NET_ADMIN"], &["NET_ADMIN"]).ambient()),
            0
        );
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let requested = Requested {
            add: vec!["EVERYTHING".into()],
            ..Default::default()
        };
        assert!(validate(&requested).is_err());
    }

    #[test]
    fn every_bit_has_its_own_name() {
        assert_eq!(from_mask(u64::MAX).len(), 41);
        assert_eq!(mask_of(Capability::SysAdmin), 1 << 21);
    }
}
