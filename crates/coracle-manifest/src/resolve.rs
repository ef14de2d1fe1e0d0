//! What can only be said on a node and once the pod has its addresses.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::container::{Container, SubPath, VolumeMount};
use crate::environment::{FieldRef, Resource, ResourceRef, Source};
use crate::expand::expand;
use crate::pod::{DnsPolicy, Pod, Resolver, RestartPolicy};
use crate::quantity::Quantity;
use crate::volumes::FileContent;

/// The domain of full names; nobody serves it.
const DOMAIN: &str = "cluster.local";
/// What resolv.conf(5) takes.
const SERVERS_MAX: usize = 3;

/// What the node knows and a manifest does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The pod's uid.
    pub uid: String,
    /// The node's name.
    pub node_name: String,
    /// The node's address.
    pub host_ip: String,
    /// The pod's addresses; empty before it has any.
    pub pod_ips: Vec<String>,
    /// The node's memory, bytes.
    pub memory: u64,
    /// The node's CPUs.
    pub cpus: u32,
    /// What the node's own `/etc/resolv.conf` says.
    pub resolver: Resolver,
}

impl Pod {
    /// Whether an init container stays beside the others.
    #[must_use]
    pub fn is_sidecar(&self, container: &Container) -> bool {
        container.restart_policy == Some(RestartPolicy::Always)
            && self.init_containers.iter().any(|one| one.name == container.name)
    }

    /// Whether a container starts again after this exit code.
    #[must_use]
    pub fn restarts(&self, container: &Container, exit_code: i32) -> bool {
        let is_init = self.init_containers.iter().any(|one| one.name == container.name);
        match container.restart_policy.unwrap_or(self.restart_policy) {
            RestartPolicy::Always if is_init && !self.is_sidecar(container) => exit_code != 0,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// The variables of a container; later ones of a name win.
    #[must_use]
    pub fn environment(&self, container: &Container, facts: &Facts) -> Vec<(String, String)> {
        let mut known: BTreeMap<&str, String> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        for variable in &container.env {
            let value = match &variable.source {
                Source::Text(text) => expand(text, |name| known.get(name).cloned()),
                Source::Given(value) => value.reveal().to_owned(),
                Source::Field(field) => self.field(field, facts),
                Source::Resource(resource) => self.resource(container, resource, facts),
            };
            if known.insert(&variable.name, value).is_none() {
                order.push(&variable.name);
            }
        }
        order
            .into_iter()
            .map(|name| (name.to_owned(), known.get(name).cloned().unwrap_or_default()))
            .collect()
    }

    /// The words of a command or its arguments, with variables in place.
    #[must_use]
    pub fn words(words: &[String], environment: &[(String, String)]) -> Vec<String> {
        words
            .iter()
            .map(|word| expand(word, |name| lookup(environment, name)))
            .collect()
    }

    /// The part of a volume that a mount shows; `None` is all of it.
    ///
    /// # Errors
    /// The path, when variables make it absolute, or `..` comes of them, or one is not known.
    pub fn sub_path(mount: &VolumeMount, environment: &[(String, String)]) -> Result<Option<String>, String> {
        let path = match &mount.sub_path {
            SubPath::Whole => return Ok(None),
            SubPath::Plain(path) => path.clone(),
            SubPath::Expanded(text) => expand(text, |name| lookup(environment, name)),
        };
        let unknown = matches!(mount.sub_path, SubPath::Expanded(_)) && path.contains("$(");
        if path.is_empty() || path.starts_with('/') || !crate::names::is_tidy(&path) || unknown {
            return Err(path);
        }
        Ok(Some(path))
    }

    /// The bytes of a volume's file.
    #[must_use]
    pub fn file_content(&self, content: &FileContent, facts: &Facts) -> Vec<u8> {
        match content {
            FileContent::Text(text) => text.reveal().as_bytes().to_vec(),
            FileContent::Bytes(bytes) => bytes.clone(),
            FileContent::Field(field) => self.field(field, facts).into_bytes(),
            FileContent::Resource(resource) => {
                let whose = self
                    .all_containers()
                    .find(|container| container.name == resource.container);
                let text = whose.map(|container| self.resource(container, resource, facts));
                text.unwrap_or_default().into_bytes()
            }
        }
    }

    fn field(&self, field: &FieldRef, facts: &Facts) -> String {
        let of = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned().unwrap_or_default();
        match field {
            FieldRef::Name => self.name.clone(),
            FieldRef::Namespace => self.namespace.clone(),
            FieldRef::Uid => facts.uid.clone(),
            FieldRef::Labels => listed(&self.labels),
            FieldRef::Annotations => listed(&self.annotations),
            FieldRef::Label(key) => of(&self.labels, key),
            FieldRef::Annotation(key) => of(&self.annotations, key),
            FieldRef::NodeName => facts.node_name.clone(),
            FieldRef::ServiceAccount => self.service_account.clone(),
            FieldRef::HostIp => facts.host_ip.clone(),
            FieldRef::PodIp => facts.pod_ips.first().cloned().unwrap_or_default(),
            FieldRef::PodIps => facts.pod_ips.join(","),
        }
    }

    fn resource(&self, asker: &Container, wanted: &ResourceRef, facts: &Facts) -> String {
        let whose = self
            .all_containers()
            .find(|container| container.name == wanted.container);
        let resources = &whose.unwrap_or(asker).resources;
        let memory = || Quantity::whole(i64::try_from(facts.memory).unwrap_or(i64::MAX));
        let amount = match wanted.resource {
            Resource::CpuLimit => resources
                .cpu_limit
                .unwrap_or_else(|| Quantity::whole(facts.cpus.into())),
            Resource::CpuRequest => resources.cpu_request.unwrap_or_default(),
            Resource::MemoryLimit => resources.memory_limit.unwrap_or_else(memory),
            Resource::MemoryRequest => resources.memory_request.unwrap_or_default(),
            Resource::StorageLimit => resources.storage_limit.unwrap_or_default(),
            Resource::StorageRequest => resources.storage_request.unwrap_or_default(),
        };
        let (value, unit) = match wanted.resource {
            Resource::CpuLimit | Resource::CpuRequest => (amount.milli_value(), wanted.divisor.milli_value()),
            _ => (amount.value(), wanted.divisor.value()),
        };
        let unit = i128::from(unit.max(1));
        ((i128::from(value) + unit - 1) / unit).to_string()
    }

    /// The pod's full name, if it has a subdomain.
    #[must_use]
    pub fn full_name(&self) -> Option<String> {
        let domain = format!("{}.{}.svc.{DOMAIN}", self.subdomain, self.namespace);
        (!self.subdomain.is_empty()).then(|| format!("{}.{domain}", self.hostname))
    }

    /// `/etc/hosts` of a pod that has its own network, as the kubelet writes it.
    #[must_use]
    pub fn hosts_file(&self, facts: &Facts) -> String {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let full = self
            .full_name()
            .map(|name| format!("{name}\t"))
            .unwrap_or_default();
        for ip in &facts.pod_ips {
            writeln!(text, "{ip}\t{full}{}", self.hostname).expect("a string grows as it must");
        }
        text + &self.alias_lines()
    }

    /// The lines of `hostAliases`.
    #[must_use]
    pub fn alias_lines(&self) -> String {
        let mut text = String::new();
        for alias in &self.host_aliases {
            writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"))
                .expect("a string grows as it must");
        }
        text
    }

    /// What CRI is told of the resolver; `None` leaves the node's own file.
    #[must_use]
    pub fn resolver(&self, node: &Resolver) -> Option<Resolver> {
        let own = &self.dns.own;
        if self.dns.policy == DnsPolicy::None {
            return Some(own.clone());
        }
        if *own == Resolver::default() {
            return None;
        }
        let both = |first: &[String], second: &[String]| {
            let mut all: Vec<String> = Vec::new();
            for word in first.iter().chain(second) {
                if !all.contains(word) {
                    all.push(word.clone());
                }
            }
            all
        };
        let mut servers = both(&node.servers, &own.servers);
        servers.truncate(SERVERS_MAX);
        // An option of the pod's replaces the node's of that name.
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        let kept = node
            .options
            .iter()
            .filter(|have| !own.options.iter().any(|option| name(option) == name(have)));
        let kept: Vec<String> = kept.cloned().collect();
        Some(Resolver {
            servers,
            searches: both(&node.searches, &own.searches),
            options: both(&kept, &own.options),
        })
    }
}

fn lookup(environment: &[(String, String)], name: &str) -> Option<String> {
    environment
        .iter()
        .find(|(have, _)| have == name)
        .map(|(_, value)| value.clone())
}

/// Labels or annotations as a file shows them: `key="value"` a line, by key.
fn listed(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}
