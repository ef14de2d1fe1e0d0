//! What confines containers beside namespaces and capabilities.

use coracle_spec::{AppArmor, Host, Selinux};

use crate::State::{Broken, Costs};
use crate::{Finding, Subject, Topic};

pub(super) fn examine(_subject: &Subject) -> Vec<Finding> {
    let host = Host::probe();
    vec![
        finding("seccomp", if host.seccomp { "there" } else { "not there" }).unless(
            host.seccomp,
            Broken,
            "containers cannot be kept from dangerous system calls; those that ask for it are refused",
            "run a kernel with CONFIG_SECCOMP_FILTER",
        ),
        finding(
            "AppArmor",
            if host.apparmor == AppArmor::Enabled {
                "on"
            } else {
                "off"
            },
        )
        .unless(
            host.apparmor == AppArmor::Enabled || host.selinux == Selinux::Enabled,
            Costs,
            "pods that name a profile are refused; neither it nor SELinux confines the others",
            "boot with apparmor=1 security=apparmor, and install apparmor",
        ),
        finding(
            "SELinux",
            if host.selinux == Selinux::Enabled {
                "on"
            } else {
                "off"
            },
        ),
    ]
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Security, name, seen)
}
