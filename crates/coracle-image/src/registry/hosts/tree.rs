//! containerd's trees of `certs.d/<host>/hosts.toml`, and Docker's of certificates only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::{Capabilities, Host, MalformedHosts, Role, read_file, read_text, read_toml, scheme_for, server};
use crate::registry::transport::{Identity, Trust};

/// Headers that the protocol itself sets.
const OWN_HEADERS: [&str; 6] = [
    "host",
    "authorization",
    "accept",
    "range",
    "content-length",
    "connection",
];

#[derive(Deserialize)]
struct RawFile {
    server: Option<String>,
    #[serde(flatten)]
    defaults: RawHost,
    #[serde(default)]
    host: BTreeMap<String, toml::Spanned<RawHost>>,
}

/// Settings of a host; unknown ones are left alone since the files are shared with containerd.
#[derive(Deserialize, Default)]
struct RawHost {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    client: Option<toml::Value>,
    // Read by hand: a parser's complaint about a value repeats the value.
    header: Option<toml::Value>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The hosts by a directory of the registry's own; `None` when no tree has one.
pub(super) fn own(dirs: &[PathBuf], registry: &str) -> Result<Option<Vec<Host>>, MalformedHosts> {
    find(dirs, registry, |dir| directories(dir, registry))
}

/// The hosts by a tree's `_default`.
pub(super) fn default(dirs: &[PathBuf], registry: &str) -> Result<Option<Vec<Host>>, MalformedHosts> {
    find(dirs, registry, |dir| vec![dir.join("_default")])
}

fn find(
    dirs: &[PathBuf],
    registry: &str,
    candidates: impl Fn(&Path) -> Vec<PathBuf>,
) -> Result<Option<Vec<Host>>, MalformedHosts> {
    for candidate in dirs.iter().flat_map(|dir| candidates(dir)) {
        let path = candidate.join("hosts.toml");
        if let Some(text) = read_text(&path)? {
            return parse(&text, &path, registry).map(Some);
        }
        if let Some(trust) = certificates(&candidate)? {
            return Ok(Some(vec![server(registry, trust)]));
        }
    }
    Ok(None)
}

/// As containerd looks: `host_port_`, then `host:port`.
fn directories(dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut found = Vec::with_capacity(2);
    if let Some((host, port)) = registry.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        found.push(dir.join(format!("{host}_{port}_")));
    }
    found.push(dir.join(registry));
    found
}

/// Docker's form, which containerd reads where there is no hosts.toml: `*.crt` are authorities,
/// `NAME.cert` and `NAME.key` what the client shows. `None` when there is none of them.
fn certificates(dir: &Path) -> Result<Option<Trust>, MalformedHosts> {
    let unreadable = |error: std::io::Error| MalformedHosts::new(dir, error.to_string());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.sort();
    let has = |path: &PathBuf, extension: &str| path.extension().is_some_and(|found| found == extension);
    let mut trust = Trust::default();
    for file in files.iter().filter(|file| has(file, "crt")) {
        trust.authorities.push(pem(file, dir)?);
    }
    let mut pairs = files.iter().filter(|file| has(file, "cert"));
    if let Some(cert) = pairs.next() {
        trust.identity = Some(identity(cert, Some(&cert.with_extension("key")), dir)?);
    }
    if pairs.next().is_some() {
        return Err(MalformedHosts::new(dir, ONE_PAIR));
    }
    Ok((trust != Trust::default()).then_some(trust))
}

const ONE_PAIR: &str =
    "it has several client certificates, and which of them a server wants is not guessed: keep one";

pub(super) fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Host>, MalformedHosts> {
    let raw: RawFile = read_toml(text, path)?;
    // The file's order is the order of asking; the map has lost it, the spans have not.
    let mut entries: Vec<_> = raw.host.into_iter().collect();
    entries.sort_by_key(|(_, host)| host.span().start);
    let mut hosts = Vec::with_capacity(entries.len() + 1);
    for (url, host) in entries {
        hosts.push(host_entry(&url, host.into_inner(), path, Role::Mirror)?);
    }
    match raw.server.as_deref() {
        Some(url) => hosts.push(host_entry(url, raw.defaults, path, Role::Server)?),
        None => {
            let mut own = server(registry, trust(&raw.defaults, path)?);
            own.headers = headers(raw.defaults.header.as_ref(), path)?;
            if let Some(capabilities) = &raw.defaults.capabilities {
                own.capabilities = read_capabilities(capabilities, path)?;
            }
            hosts.push(own);
        }
    }
    Ok(hosts)
}

fn host_entry(url: &str, raw: RawHost, path: &Path, role: Role) -> Result<Host, MalformedHosts> {
    let malformed = |reason: String| MalformedHosts::new(path, reason);
    let with_scheme = if url.contains("://") {
        url.to_owned()
    } else {
        let host = url.split('/').next().unwrap_or_default();
        format!("{}://{url}", scheme_for(host))
    };
    // The URL is not repeated before it is known to hold no password.
    let mut base =
        Url::parse(&with_scheme).map_err(|error| malformed(format!("a host is no URL: {error}")))?;
    if !base.username().is_empty() || base.password().is_some() {
        return Err(malformed(
            "a host's URL holds a user or password; they belong in the pull's credentials".to_owned(),
        ));
    }
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
        return Err(malformed(format!("the host {url:?} is no http or https URL")));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(malformed(format!("the host {url:?} has a query or fragment")));
    }
    let mut api = base.path().trim_end_matches('/').to_owned();
    if !raw.override_path && !api.ends_with("/v2") {
        api.push_str("/v2");
    }
    base.set_path(&api);
    let capabilities = match &raw.capabilities {
        Some(names) => read_capabilities(names, path)?,
        None => Capabilities::ALL,
    };
    Ok(Host {
        base,
        capabilities,
        role,
        trust: trust(&raw, path)?,
        repository: None,
        told: role == Role::Mirror,
        plain_fallback: false,
        headers: headers(raw.header.as_ref(), path)?,
    })
}

fn read_capabilities(names: &[String], path: &Path) -> Result<Capabilities, MalformedHosts> {
    let mut capabilities = Capabilities::default();
    for name in names {
        match name.as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" => capabilities.push = true,
            "referrers" => {}
            other => {
                let reason = format!("capability {other:?} is none of pull, resolve, push, referrers");
                return Err(MalformedHosts::new(path, reason));
            }
        }
    }
    Ok(capabilities)
}

fn trust(raw: &RawHost, path: &Path) -> Result<Trust, MalformedHosts> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let files = match &raw.ca {
        None => Vec::new(),
        Some(OneOrMany::One(file)) => vec![dir.join(file)],
        Some(OneOrMany::Many(files)) => files.iter().map(|file| dir.join(file)).collect(),
    };
    let authorities = files
        .iter()
        .map(|file| pem(file, path))
        .collect::<Result<_, _>>()?;
    let dial_timeout = raw.dial_timeout.as_deref().map(|text| {
        // Go's durations are humantime's for all that a connection may take.
        let time = humantime::parse_duration(text).ok();
        time.filter(|time| (1..=600_000).contains(&time.as_millis()))
            .ok_or_else(|| {
                let reason = format!("dial_timeout {text:?} is no time from 1ms to 10m such as \"3s\"");
                MalformedHosts::new(path, reason)
            })
    });
    Ok(Trust {
        authorities,
        identity: raw
            .client
            .as_ref()
            .map(|value| client(value, dir, path))
            .transpose()?,
        skip_verify: raw.skip_verify,
        dial_timeout: dial_timeout.transpose()?,
    })
}

fn pem(file: &Path, path: &Path) -> Result<Vec<u8>, MalformedHosts> {
    let told = |reason: String| MalformedHosts::new(path, format!("the file {}: {reason}", file.display()));
    read_file(file)
        .map_err(told)?
        .ok_or_else(|| told("it does not exist".to_owned()))
}

/// `client = "both.pem"`, `["both.pem"]`, `[["cert.pem", "key.pem"]]` or `[["both.pem", ""]]`.
fn client(value: &toml::Value, dir: &Path, path: &Path) -> Result<Identity, MalformedHosts> {
    const FORM: &str = "client is a file with certificate and key, or a list of one pair [certificate, key]";
    let wrong = || MalformedHosts::new(path, FORM);
    let entry = match value {
        toml::Value::Array(entries) if entries.len() > 1 => return Err(MalformedHosts::new(path, ONE_PAIR)),
        toml::Value::Array(entries) => entries.first().ok_or_else(wrong)?,
        other => other,
    };
    let file = |value: &toml::Value| {
        value
            .as_str()
            .map(|text| (!text.is_empty()).then(|| dir.join(text)))
    };
    let (cert, key) = match entry {
        toml::Value::Array(pair) if pair.len() == 2 => (
            file(&pair[0]).ok_or_else(wrong)?,
            file(&pair[1]).ok_or_else(wrong)?,
        ),
        toml::Value::String(_) => (file(entry).ok_or_else(wrong)?, None),
        _ => return Err(wrong()),
    };
    identity(&cert.ok_or_else(wrong)?, key.as_deref(), path)
}

fn identity(cert: &Path, key: Option<&Path>, path: &Path) -> Result<Identity, MalformedHosts> {
    let mut both = pem(cert, path)?;
    if let Some(key) = key {
        both.push(b'\n');
        both.extend(pem(key, path)?);
    }
    Ok(Identity(both))
}

/// `header = {name = "value"}` or `{name = ["value", "value"]}`.
fn headers(raw: Option<&toml::Value>, path: &Path) -> Result<HeaderMap, MalformedHosts> {
    let mut headers = HeaderMap::new();
    let Some(raw) = raw else {
        return Ok(headers);
    };
    let table = raw
        .as_table()
        .ok_or_else(|| MalformedHosts::new(path, "header is a table of names and values"))?;
    for (name, values) in table {
        let told = |reason: &str| MalformedHosts::new(path, format!("header {name:?} {reason}"));
        let read = HeaderName::try_from(name.as_str()).map_err(|_| told("is no header's name"))?;
        if OWN_HEADERS.contains(&read.as_str()) {
            return Err(told(
                "belongs to the protocol; credentials go into registry.credentials",
            ));
        }
        let values = match values {
            toml::Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = value
                .as_str()
                .ok_or_else(|| told("has a value that is no text"))?;
            let mut value =
                HeaderValue::from_str(value).map_err(|_| told("has a value with control characters"))?;
            value.set_sensitive(true);
            headers.append(read.clone(), value);
        }
    }
    Ok(headers)
}
