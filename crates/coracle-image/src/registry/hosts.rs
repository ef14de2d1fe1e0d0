//! Which hosts serve a registry's content, in the order of asking.
//!
//! What is written counts in this order, the first that says something about the registry alone:
//!
//! 1. `blocked` in a registries.conf, whatever else is written;
//! 2. a directory of the registry's own in a tree of hosts.toml files ([`tree`]);
//! 3. the longest fitting prefix of a registries.conf ([`conf`]);
//! 4. `_default` in such a tree;
//! 5. nothing: the registry itself, by HTTPS, or by plain HTTP on this machine.

pub(crate) mod conf;
pub(crate) mod tree;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderMap;
use url::Url;

use super::config::RegistryConfig;
use super::error::RegistryError;
use super::transport::Trust;
use crate::reference::Reference;

/// Longest file of the configuration that is read.
const MAX_FILE: u64 = 1 << 20;

/// A registry configuration of the node that cannot be used; pulls of that registry fail until it is
/// mended, as falling back would go where the operator did not want.
#[derive(Debug, Clone, thiserror::Error)]
#[error("registry configuration {}: {reason}", path.display())]
pub struct MalformedHosts {
    /// The file at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl MalformedHosts {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// Turning a tag into a digest.
    pub(crate) resolve: bool,
    /// Taking content.
    pub(crate) push: bool,
}

impl Capabilities {
    pub(crate) const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
    };
    /// What a mirror may do.
    pub(crate) const READ: Self = Self {
        push: false,
        ..Self::ALL
    };
}

/// Whether a host is the registry named in the reference or stands in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Mirror,
}

/// A host to ask.
#[derive(Clone)]
pub(crate) struct Host {
    /// With the API's root (`/v2`), without a slash at the end.
    pub(crate) base: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) role: Role,
    pub(crate) trust: Trust,
    /// What it calls the repository, where that is another name than the reference's.
    pub(crate) repository: Option<String>,
    /// Whether it is told for which registry it stands in (`?ns=`), as containerd does.
    pub(crate) told: bool,
    /// Whether it may be asked by plain HTTP when it does not speak TLS (`insecure`).
    pub(crate) plain_fallback: bool,
    /// Sent with each request to it, and to nobody else.
    pub(crate) headers: HeaderMap,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and certificates' keys are secrets.
        f.debug_struct("Host")
            .field("base", &self.base.as_str())
            .field("capabilities", &self.capabilities)
            .field("role", &self.role)
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

/// The hosts for a reference. Reads small files: call it where blocking is allowed.
pub(crate) fn hosts_for(config: &RegistryConfig, reference: &Reference) -> Result<Vec<Host>, RegistryError> {
    let registry = reference.registry();
    let conf = conf::Conf::read(&config.registries_conf)?;
    let entry = conf.entry(&reference.name());
    if let Some(entry) = entry.filter(|entry| entry.blocked) {
        return Err(RegistryError::Blocked {
            name: reference.name(),
            prefix: entry.prefix.clone(),
            path: entry.path.clone(),
        });
    }
    if let Some(hosts) = tree::own(&config.hosts_dirs, registry)? {
        return Ok(hosts);
    }
    if let Some(entry) = entry {
        return Ok(entry.hosts(reference)?);
    }
    if let Some(hosts) = tree::default(&config.hosts_dirs, registry)? {
        return Ok(hosts);
    }
    Ok(vec![server(registry, Trust::default())])
}

/// The registry itself, where no file says otherwise.
fn server(registry: &str, trust: Trust) -> Host {
    let host = host_of(registry);
    let base = Url::parse(&format!("{}://{host}/v2", scheme_for(host)))
        .expect("a reference's registry was checked to be a host with or without a port");
    Host {
        base,
        capabilities: Capabilities::ALL,
        role: Role::Server,
        trust,
        repository: None,
        told: false,
        plain_fallback: false,
        headers: HeaderMap::new(),
    }
}

/// The host that serves a registry: Docker Hub's has another name.
fn host_of(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

/// Plain HTTP for loopback hosts (but on port 443), HTTPS for all others.
fn scheme_for(host_and_port: &str) -> &'static str {
    let loopback = Url::parse(&format!("https://{host_and_port}")).is_ok_and(|url| is_loopback(&url));
    if loopback && !host_and_port.ends_with(":443") {
        "http"
    } else {
        "https"
    }
}

/// Whether a URL's host is this machine by name or address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A small file; `None` when it is not there, else a reason in words.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut content = Vec::new();
    let mut bounded = file.take(MAX_FILE + 1);
    bounded
        .read_to_end(&mut content)
        .map_err(|error| error.to_string())?;
    if content.len() as u64 > MAX_FILE {
        return Err("it is longer than 1 MiB".to_owned());
    }
    Ok(Some(content))
}

/// The same, as text.
fn read_text(path: &Path) -> Result<Option<String>, MalformedHosts> {
    let content = read_file(path).map_err(|reason| MalformedHosts::new(path, reason))?;
    let text = content.map(String::from_utf8).transpose();
    text.map_err(|_| MalformedHosts::new(path, "it is not UTF-8"))
}

/// TOML with the line of a mistake; never the line's text, which may hold a secret.
fn read_toml<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, MalformedHosts> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        MalformedHosts::new(path, format!("{place}{}", error.message()))
    })
}

#[cfg(test)]
mod tests;
