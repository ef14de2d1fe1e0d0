//! Kernel parameters of a pod: only namespaced ones, only in namespaces of its own, values harmless.

use std::collections::BTreeMap;

use coracle_types::pod::PodSandboxConfig;
use coracle_types::security::NamespaceMode;

use crate::error::SpecError;
use crate::input::HandlerDefaults;
use crate::namespaces::user_namespace;

/// Parameters of the IPC namespace (ipc_namespaces(7)).
const IPC: [&str; 12] = [
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg_next_id",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.auto_msgmni",
];
/// Longest name and value; none of the kernel's comes near.
const LENGTH_MAX: usize = 256;

/// Which namespace has to be the pod's own for a parameter.
enum Namespace {
    Network,
    Ipc,
    Uts,
}

/// What to set in the pod's namespaces: its own wishes, checked, and the handler's defaults for a
/// network of its own. Names come out with dots; a dot inside an interface's name is a slash, as
/// sysctl(8) reads it.
///
/// # Errors
/// [`SpecError::Field`] for a parameter that is not namespaced, belongs to a namespace that the pod
/// shares with the node, or has a value with anything but letters, digits and `_ . , : / -` between
/// single blanks (CVE-2022-0811).
pub fn pod_sysctls(
    pod: &PodSandboxConfig,
    defaults: &HandlerDefaults,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut sysctls = BTreeMap::new();
    let own_network = pod.security.namespaces.network != NamespaceMode::Node;
    if own_network {
        for (key, value) in &defaults.network_sysctls {
            // Its groups are the node's ids, which a user namespace does not map.
            let unmapped =
                key == "net.ipv4.ping_group_range" && user_namespace(&pod.security.namespaces).is_some();
            if !unmapped {
                sysctls.insert(dotted(key), value.clone());
            }
        }
    }
    for (key, value) in &pod.sysctls {
        let field = format!("linux.sysctls[{key}]");
        let name = dotted(key);
        check_name(key, &name)?;
        check_value(&field, value)?;
        let (mode, what) = match namespace(&name) {
            Some(Namespace::Network) => (pod.security.namespaces.network, "network"),
            Some(Namespace::Uts) => (pod.security.namespaces.network, "network (and with it the UTS)"),
            Some(Namespace::Ipc) => (pod.security.namespaces.ipc, "IPC"),
            None => {
                return Err(SpecError::field(
                    "linux.sysctls",
                    key,
                    "only parameters of a namespace can be set for a pod: net.*, fs.mqueue.*, kernel.shm*, \
                     kernel.msg*, kernel.sem and kernel.domainname",
                ));
            }
        };
        if mode == NamespaceMode::Node {
            let remedy = format!("the pod shares the node's {what} namespace; set it on the node instead");
            return Err(SpecError::field("linux.sysctls", key, remedy));
        }
        sysctls.insert(name, value.clone());
    }
    Ok(sysctls)
}

fn namespace(name: &str) -> Option<Namespace> {
    if name.starts_with("net.") {
        Some(Namespace::Network)
    } else if name == "kernel.domainname" {
        Some(Namespace::Uts)
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else {
        None
    }
}

/// `net/ipv4/conf/eth0.1/x` and `net.ipv4.conf.eth0/1.x` are one parameter: the separator that comes
/// first separates.
fn dotted(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(first) if key.as_bytes()[first] == b'/' => key
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    }
}

fn check_name(key: &str, name: &str) -> Result<(), SpecError> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"_-./@:".contains(&b);
    let parts_are_names = name.split('.').all(|part| {
        // A slash stands for a dot of an interface's name, so ".." must not come of it.
        !part.is_empty() && !part.starts_with('/') && !part.ends_with('/') && !part.contains("//")
    });
    if key.len() <= LENGTH_MAX && name.bytes().all(letters) && parts_are_names && name.contains('.') {
        return Ok(());
    }
    Err(SpecError::field(
        "linux.sysctls",
        key,
        "name a parameter such as net.ipv4.ip_local_port_range",
    ))
}

fn check_value(field: &str, value: &str) -> Result<(), SpecError> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"_.,:/- \t".contains(&b);
    let blank = |b: u8| b == b' ' || b == b'\t';
    let bytes = value.as_bytes();
    let tidy = !bytes.is_empty()
        && !blank(bytes[0])
        && !blank(bytes[bytes.len() - 1])
        && !bytes.windows(2).any(|pair| blank(pair[0]) && blank(pair[1]));
    if value.len() <= LENGTH_MAX && tidy && value.bytes().all(letters) {
        return Ok(());
    }
    Err(SpecError::field(
        field,
        value,
        "give one line of numbers or words with single blanks between them",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(key: &str, value: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            sysctls: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        }
    }

    fn check(key: &str, value: &str) -> Result<BTreeMap<String, String>, SpecError> {
        pod_sysctls(&pod(key, value), &HandlerDefaults::default())
    }

    #[test]
    fn a_pod_gets_the_defaults_of_its_own_network() {
        let sysctls = pod_sysctls(&PodSandboxConfig::default(), &HandlerDefaults::default()).expect("fine");
        assert_eq!(sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
        assert_eq!(sysctls["net.ipv4.ping_group_range"], "0 2147483647");
        assert_eq!(
            check("net/ipv4/ip_unprivileged_port_start", "80")
                .expect("fine")
                .len(),
            2
        );
        let mut host = PodSandboxConfig::default();
        host.security.namespaces.network = NamespaceMode::Node;
        assert!(
            pod_sysctls(&host, &HandlerDefaults::default())
                .expect("fine")
                .is_empty()
        );
    }

    #[test]
    fn namespaced_parameters_pass() {
        for (key, value) in [
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "100"),
            ("net.ipv4.ip_local_port_range", "1024 65000"),
            ("net.ipv4.ip_local_port_range", "1024\t65000"),
            ("net.ipv4.conf.eth0/100.forwarding", "1"),
            ("kernel.sem", "250 32000 32 128"),
            ("net.ipv4.tcp_congestion_control", "bbr"),
        ] {
            assert!(check(key, value).is_ok(), "{key}={value}");
        }
    }

    #[test]
    fn parameters_of_the_node_are_refused() {
        for key in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "vm.swappiness",
            "kernel.hostname",
            "kernel.shm",
            "net",
            "net.",
            ".net.x",
            "net..x",
            "net.ipv4./.x",
            "net/../kernel/core_pattern",
            "net.//.kernel.core_pattern",
            "fs.file-max",
            "kernel.sem+kernel.core_pattern",
            "net.x\n",
        ] {
            assert!(check(key, "1").is_err(), "{key:?}");
        }
    }

    #[test]
    fn values_that_smuggle_are_refused() {
        for value in [
            "1+kernel.core_pattern=|/x",
            "1\n2",
            "",
            " 1",
            "1 ",
            "1  2",
            "a=b",
            "1\0",
            &"1".repeat(257),
        ] {
            assert!(check("kernel.shm_rmid_forced", value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn what_is_shared_with_the_node_stays_the_nodes() {
        let mut network = pod("net.core.somaxconn", "1024");
        network.security.namespaces.network = NamespaceMode::Node;
        assert!(pod_sysctls(&network, &HandlerDefaults::default()).is_err());
        let mut ipc = pod("kernel.shmmax", "1024");
        ipc.security.namespaces.ipc = NamespaceMode::Node;
        assert!(pod_sysctls(&ipc, &HandlerDefaults::default()).is_err());
    }
}
