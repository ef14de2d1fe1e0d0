//! containers-registries.conf(5), version 2: what CRI-O and podman go by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderMap;
use serde::Deserialize;
use url::Url;

use super::{Capabilities, Host, MalformedHosts, Role, host_of, read_text, read_toml, scheme_for};
use crate::reference::Reference;
use crate::registry::transport::Trust;

/// Fragments beside one file that are read.
const MOST_FRAGMENTS: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawFile {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    #[serde(default)]
    registry: Vec<RawRegistry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1.
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawRegistry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

/// All files together.
#[derive(Debug, Default)]
pub(crate) struct Conf {
    entries: Vec<Entry>,
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    enforcing: bool,
}

/// What is said about names that begin so.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) prefix: String,
    pub(super) blocked: bool,
    /// The file, for errors.
    pub(super) path: PathBuf,
    location: String,
    insecure: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug)]
struct Mirror {
    location: String,
    insecure: bool,
    pulls: Pulls,
}

/// For which references a mirror is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulls {
    All,
    Digests,
    Tags,
}

impl Conf {
    /// Reads the files and their `.d` directories; what comes later replaces an entry of the same prefix
    /// and the list of registries to search. Files that are not there say nothing.
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self, MalformedHosts> {
        let mut all = Self::default();
        for file in files {
            all.add(file)?;
            for fragment in fragments(file)? {
                all.add(&fragment)?;
            }
        }
        // An alias for nothing takes an earlier one back.
        all.aliases.retain(|_, name| !name.is_empty());
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<(), MalformedHosts> {
        let Some(text) = read_text(path)? else {
            return Ok(());
        };
        let malformed = |reason: String| MalformedHosts::new(path, reason);
        let raw: RawFile = read_toml(&text, path)?;
        if raw.registries.is_some() {
            return Err(malformed(
                "it is of version 1 ([registries.search], [registries.insecure], [registries.block]), which is \
                 not read: write [[registry]] tables and unqualified-search-registries (containers-registries.conf(5), \
                 version 2)"
                    .to_owned(),
            ));
        }
        for registry in raw.registry {
            let entry = Entry::read(registry, path)?;
            self.entries.retain(|known| known.prefix != entry.prefix);
            self.entries.push(entry);
        }
        if let Some(search) = raw.unqualified_search_registries {
            for name in &search {
                check_location(name, path)?;
            }
            self.search = search;
        }
        match raw.short_name_mode.as_deref() {
            None => {}
            Some("enforcing") => self.enforcing = true,
            Some("permissive" | "disabled") => self.enforcing = false,
            Some(other) => {
                return Err(malformed(format!(
                    "short-name-mode {other:?} is none of enforcing, permissive, disabled"
                )));
            }
        }
        for (alias, name) in raw.aliases {
            if !name.is_empty() {
                let whole = name
                    .parse::<Reference>()
                    .map_err(|error| malformed(error.to_string()))?;
                let qualified = name.starts_with(&format!("{}/", whole.registry()));
                if !qualified || name != whole.name() {
                    return Err(malformed(format!(
                        "the alias {alias:?} leads to {name:?}: give registry and repository, without tag or digest"
                    )));
                }
            }
            self.aliases.insert(alias, name);
        }
        Ok(())
    }

    /// The entry with the longest prefix of `name` (registry and repository).
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        let fitting = self.entries.iter().filter(|entry| entry.rest(name).is_some());
        fitting.max_by_key(|entry| entry.prefix.len())
    }

    /// What a person may mean by a name without a registry, best first; `None` for a name that has one.
    /// Without an alias or a registry to search Docker Hub is meant.
    pub(crate) fn candidates(&self, text: &str) -> Option<Vec<String>> {
        let reference: Reference = text.parse().ok()?;
        let first = text.split('/').next().unwrap_or_default();
        if text.contains('/') && (first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost"))
        {
            return None;
        }
        let name = text.split('@').next().unwrap_or_default();
        // Without a registry there is no port: a colon begins a tag.
        let name = name.split(':').next().unwrap_or_default();
        if let Some(whole) = self.aliases.get(name) {
            return Some(vec![format!("{whole}{}", &text[name.len()..])]);
        }
        if self.search.is_empty() {
            return Some(vec![reference.to_string()]);
        }
        let candidates = self.search.iter().map(|registry| format!("{registry}/{text}"));
        Some(
            candidates
                .filter(|name| name.parse::<Reference>().is_ok())
                .collect(),
        )
    }

    /// Whether several candidates are to be refused instead of tried.
    pub(crate) fn enforcing(&self) -> bool {
        self.enforcing
    }
}

fn fragments(file: &Path) -> Result<Vec<PathBuf>, MalformedHosts> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let unreadable = |error: std::io::Error| MalformedHosts::new(&dir, error.to_string());
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries.take(MOST_FRAGMENTS) {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `host[:port][/path]`, without scheme, tag or digest.
fn check_location(location: &str, path: &Path) -> Result<(), MalformedHosts> {
    let refuse = |reason: &str| MalformedHosts::new(path, format!("{location:?} {reason}"));
    if location.contains("://") {
        return Err(refuse(
            "is a URL: a location is a host with or without a port and a path, and no scheme",
        ));
    }
    // Any repository below it, to let the references' own reader judge.
    let probe = format!("{location}/x");
    let read: Reference = probe
        .parse()
        .map_err(|error: crate::reference::MalformedReference| refuse(error.reason))?;
    let host = location
        .split('/')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let hub = ["index.docker.io", "registry-1.docker.io"].contains(&host.as_str());
    if host != read.registry() && !hub {
        return Err(refuse("does not begin with a registry"));
    }
    Ok(())
}

impl Entry {
    fn read(raw: RawRegistry, path: &Path) -> Result<Self, MalformedHosts> {
        let malformed = |reason: String| MalformedHosts::new(path, reason);
        let prefix = match (raw.prefix.as_str(), raw.location.as_str()) {
            ("", "") => {
                return Err(malformed(
                    "a [[registry]] has neither prefix nor location".to_owned(),
                ));
            }
            ("", location) => location,
            (prefix, _) => prefix,
        };
        let prefix = prefix.trim_end_matches('/').to_owned();
        let wildcard = prefix.strip_prefix("*.");
        if wildcard.unwrap_or(&prefix).contains('*') {
            return Err(malformed(format!(
                "the prefix {prefix:?} has a * that is not its beginning \"*.\""
            )));
        }
        check_location(wildcard.unwrap_or(&prefix), path)?;
        let location = match raw.location.trim_end_matches('/') {
            "" if wildcard.is_some() => String::new(),
            "" => prefix.clone(),
            location => {
                check_location(location, path)?;
                location.to_owned()
            }
        };
        let mut mirrors = Vec::with_capacity(raw.mirror.len());
        for mirror in raw.mirror {
            let location = mirror.location.trim_end_matches('/').to_owned();
            check_location(&location, path)?;
            let pulls = match (mirror.pull_from_mirror.as_str(), raw.mirror_by_digest_only) {
                ("", true) | ("digest-only", false) => Pulls::Digests,
                ("" | "all", false) => Pulls::All,
                ("tag-only", false) => Pulls::Tags,
                ("all" | "digest-only" | "tag-only", true) => {
                    return Err(malformed(format!(
                        "the mirror {location:?} has pull-from-mirror and its registry mirror-by-digest-only: keep the former"
                    )));
                }
                (other, _) => {
                    return Err(malformed(format!(
                        "pull-from-mirror {other:?} is none of all, digest-only, tag-only"
                    )));
                }
            };
            mirrors.push(Mirror {
                location,
                insecure: mirror.insecure,
                pulls,
            });
        }
        Ok(Self {
            prefix,
            blocked: raw.blocked,
            path: path.to_owned(),
            location,
            insecure: raw.insecure,
            mirrors,
        })
    }

    /// What follows the prefix in `name`; `None` when it does not begin so.
    fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with('/');
        if let Some(domain) = self.prefix.strip_prefix('*') {
            // `*.example.com` fits every subdomain, and what is below it.
            let (host, path) = domain
                .split_once('/')
                .map_or((domain, ""), |(host, path)| (host, path));
            let end = name.find('/').unwrap_or(name.len());
            let registry = &name[..end];
            let bare = registry.split(':').next().unwrap_or_default();
            let fits = registry.ends_with(host) || bare.ends_with(host);
            let below = if path.is_empty() {
                Some(&name[end..])
            } else {
                name[end..].strip_prefix('/')?.strip_prefix(path)
            };
            return below.filter(|rest| fits && ends(rest));
        }
        name.strip_prefix(self.prefix.as_str()).filter(|rest| ends(rest))
    }

    /// The hosts for a reference that fits, mirrors first.
    pub(super) fn hosts(&self, reference: &Reference) -> Result<Vec<Host>, MalformedHosts> {
        let name = reference.name();
        let rest = self.rest(&name).unwrap_or_default();
        let by_digest = reference.digest().is_some();
        let mut hosts = Vec::with_capacity(self.mirrors.len() + 1);
        for mirror in &self.mirrors {
            let asked = match mirror.pulls {
                Pulls::All => true,
                Pulls::Digests => by_digest,
                Pulls::Tags => !by_digest,
            };
            if asked {
                let place = format!("{}{rest}", mirror.location);
                hosts.push(self.host(&place, mirror.insecure, Role::Mirror)?);
            }
        }
        let place = if self.location.is_empty() {
            name.clone()
        } else {
            format!("{}{rest}", self.location)
        };
        hosts.push(self.host(&place, self.insecure, Role::Server)?);
        Ok(hosts)
    }

    fn host(&self, place: &str, insecure: bool, role: Role) -> Result<Host, MalformedHosts> {
        let read: Reference = place.parse().map_err(|error| {
            MalformedHosts::new(
                &self.path,
                format!("{error}, made by the prefix {:?}", self.prefix),
            )
        })?;
        let host = host_of(read.registry());
        let scheme = scheme_for(host);
        let base = Url::parse(&format!("{scheme}://{host}/v2"))
            .map_err(|error| MalformedHosts::new(&self.path, format!("{host:?} is no host: {error}")))?;
        Ok(Host {
            base,
            capabilities: if role == Role::Server {
                Capabilities::ALL
            } else {
                Capabilities::READ
            },
            role,
            trust: Trust {
                skip_verify: insecure,
                ..Trust::default()
            },
            repository: Some(read.repository().to_owned()),
            told: false,
            plain_fallback: insecure && scheme == "https",
            headers: HeaderMap::new(),
        })
    }
}
