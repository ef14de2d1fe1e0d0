//! Checks of a pod sandbox's configuration before anything is made of it.

use std::collections::HashSet;
use std::net::IpAddr;

use coracle_types::pod::{DnsConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping};

use crate::error::SpecError;
use crate::input::HandlerDefaults;
use crate::namespaces::{self, Owner};
use crate::{labels, resources, sysctls, text, users};

/// `HOST_NAME_MAX` of Linux.
const HOSTNAME_MAX: usize = 64;
/// More than Kubernetes lets through (3 servers, 32 searches of 2048 bytes together).
const DNS_WORDS_MAX: usize = 64;
/// Ports one pod may map.
const PORTS_MAX: usize = 4096;

/// Refuses a pod that could not be made, or whose fields would mean something else in a file, a path
/// or a kernel interface.
///
/// # Errors
/// [`SpecError::Field`] with the first field that is wrong.
pub fn validate_pod(pod: &PodSandboxConfig) -> Result<(), SpecError> {
    validate_metadata(&pod.metadata)?;
    validate_hostname(&pod.hostname)?;
    if !pod.log_directory.is_empty() {
        text::absolute("log_directory", &pod.log_directory)?;
    }
    pod.dns.as_ref().map_or(Ok(()), validate_dns)?;
    validate_ports(&pod.port_mappings)?;
    text::string_map("labels", &pod.labels)?;
    text::string_map("annotations", &pod.annotations)?;
    validate_cgroup_parent(&pod.cgroup_parent)?;
    let security = &pod.security;
    namespaces::validate(&security.namespaces, Owner::Pod)?;
    users::validate_ids(
        security.run_as_user,
        security.run_as_group,
        &security.supplemental_groups,
    )?;
    if let (None, Some(group)) = (security.run_as_user, security.run_as_group) {
        let field = "linux.security_context.run_as_group";
        return Err(SpecError::field(
            field,
            group.to_string(),
            "give run_as_user, too",
        ));
    }
    labels::validate_selinux(
        "linux.security_context.selinux_options",
        security.selinux.as_ref(),
    )?;
    labels::validate_profile(
        "linux.security_context.seccomp.localhost_ref",
        security.seccomp.as_ref(),
    )?;
    labels::validate_profile(
        "linux.security_context.apparmor.localhost_ref",
        security.apparmor.as_ref(),
    )?;
    for limits in pod.overhead.iter().chain(&pod.resources) {
        resources::validate_resources(limits)?;
    }
    sysctls::pod_sysctls(pod, &HandlerDefaults::default()).map(|_| ())
}

/// All three names are required: clients take a status without them for an error.
fn validate_metadata(metadata: &PodSandboxMetadata) -> Result<(), SpecError> {
    text::component("metadata.name", &metadata.name, 253)?;
    text::component("metadata.namespace", &metadata.namespace, 253)?;
    text::component("metadata.uid", &metadata.uid, 253)
}

/// Letters, digits, `-`, `_` and `.`; empty takes the node's name.
fn validate_hostname(hostname: &str) -> Result<(), SpecError> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if hostname.len() > HOSTNAME_MAX || !hostname.bytes().all(letters) {
        let remedy = format!("give at most {HOSTNAME_MAX} letters, digits, '-', '_' and '.'");
        return Err(SpecError::field("hostname", hostname, remedy));
    }
    Ok(())
}

/// Each entry becomes a word of `/etc/resolv.conf`, so it must stay one.
fn validate_dns(dns: &DnsConfig) -> Result<(), SpecError> {
    for (name, list) in [
        ("servers", &dns.servers),
        ("searches", &dns.searches),
        ("options", &dns.options),
    ] {
        if list.len() > DNS_WORDS_MAX {
            let remedy = format!("give at most {DNS_WORDS_MAX}");
            return Err(SpecError::field(
                format!("dns_config.{name}"),
                format!("{} entries", list.len()),
                remedy,
            ));
        }
    }
    for server in &dns.servers {
        let (address, scope) = server.split_once('%').unwrap_or((server, "lo"));
        let scope_is_interface =
            (1..16).contains(&scope.len()) && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if address.parse::<IpAddr>().is_err() || !scope_is_interface {
            return Err(SpecError::field(
                "dns_config.servers",
                server,
                "give an IP address",
            ));
        }
    }
    for search in &dns.searches {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if search.is_empty() || search.len() > 255 || !search.bytes().all(letters) {
            return Err(SpecError::field(
                "dns_config.searches",
                search,
                "give a domain name",
            ));
        }
    }
    for option in &dns.options {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        if option.is_empty() || option.len() > 255 || !option.bytes().all(letters) {
            return Err(SpecError::field(
                "dns_config.options",
                option,
                "give a word such as ndots:5",
            ));
        }
    }
    Ok(())
}

fn validate_ports(ports: &[PortMapping]) -> Result<(), SpecError> {
    if ports.len() > PORTS_MAX {
        let value = format!("{} mappings", ports.len());
        return Err(SpecError::field(
            "port_mappings",
            value,
            format!("give at most {PORTS_MAX}"),
        ));
    }
    let mut taken = HashSet::new();
    for port in ports.iter().filter(|port| port.host_port != 0) {
        if port.container_port == 0 {
            let value = format!("host port {} to container port 0", port.host_port);
            return Err(SpecError::field(
                "port_mappings.container_port",
                value,
                "give the port inside",
            ));
        }
        if !taken.insert((port.protocol, port.host_port, port.host_ip)) {
            let value = format!("{} {:?}", port.host_port, port.protocol);
            return Err(SpecError::field(
                "port_mappings.host_port",
                value,
                "map each port of the host once",
            ));
        }
    }
    Ok(())
}

/// A path below the hierarchy's root, or a slice's name with the systemd driver.
fn validate_cgroup_parent(parent: &str) -> Result<(), SpecError> {
    const FIELD: &str = "linux.cgroup_parent";
    if parent.is_empty() {
        return Ok(());
    }
    if parent.starts_with('/') {
        return text::absolute(FIELD, parent);
    }
    text::component(FIELD, parent, 255)?;
    if !parent.ends_with(".slice") {
        return Err(SpecError::field(
            FIELD,
            parent,
            "give an absolute path, or a slice's name with systemd",
        ));
    }
    Ok(())
}
