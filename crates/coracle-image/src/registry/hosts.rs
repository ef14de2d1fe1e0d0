//! Which hosts serve a registry's content: containerd's `certs.d/<host>/hosts.toml`, or the registry itself.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::transport::Trust;

/// Longest hosts.toml or CA file that is read.
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

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// Turning a tag into a digest.
    pub(crate) resolve: bool,
}

/// Whether a host is the registry named in the reference or stands in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Mirror,
}

/// A host to ask, in the order of asking.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// With the API's root (`/v2`), without a slash at the end.
    pub(crate) base: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) role: Role,
    pub(crate) trust: Trust,
}

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
    header: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The hosts for `registry`, mirrors first, by the first directory of `dirs` that knows it; the
/// registry itself when none does. Reads small files: call it where blocking is allowed.
pub(crate) fn hosts_for(dirs: &[PathBuf], registry: &str) -> Result<Vec<Host>, MalformedHosts> {
    for dir in dirs {
        for candidate in directories(dir, registry) {
            let path = candidate.join("hosts.toml");
            if let Some(text) = read(&path)? {
                let text = String::from_utf8(text).map_err(|_| MalformedHosts {
                    path: path.clone(),
                    reason: "it is not UTF-8".to_owned(),
                })?;
                return parse(&text, &path, registry);
            }
        }
    }
    let trust = Trust::default();
    Ok(vec![server(registry, trust)])
}

/// As containerd looks: `host_port_`, `host:port`, then `_default`.
fn directories(dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut found = Vec::with_capacity(3);
    if let Some((host, port)) = registry.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        found.push(dir.join(format!("{host}_{port}_")));
    }
    found.push(dir.join(registry));
    found.push(dir.join("_default"));
    found
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, MalformedHosts> {
    let malformed = |reason: String| MalformedHosts {
        path: path.to_owned(),
        reason,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(malformed(error.to_string())),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|error| malformed(error.to_string()))?;
    if content.len() as u64 > MAX_FILE {
        return Err(malformed("it is longer than 1 MiB".to_owned()));
    }
    Ok(Some(content))
}

fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Host>, MalformedHosts> {
    let malformed = |reason: String| MalformedHosts {
        path: path.to_owned(),
        reason,
    };
    let raw: RawFile = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
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
            let trust = trust(&raw.defaults, path)?;
            let mut own = server(registry, trust);
            if let Some(capabilities) = &raw.defaults.capabilities {
                own.capabilities = read_capabilities(capabilities, path)?;
            }
            hosts.push(own);
        }
    }
    Ok(hosts)
}

fn host_entry(url: &str, raw: RawHost, path: &Path, role: Role) -> Result<Host, MalformedHosts> {
    let malformed = |reason: String| MalformedHosts {
        path: path.to_owned(),
        reason,
    };
    let with_scheme = if url.contains("://") {
        url.to_owned()
    } else {
        let host = url.split('/').next().unwrap_or_default();
        format!("{}://{url}", scheme_for(host))
    };
    let mut base = Url::parse(&with_scheme)
        .map_err(|error| malformed(format!("the host {url:?} is no URL: {error}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
        return Err(malformed(format!("the host {url:?} is no http or https URL")));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(malformed(
            "a host's URL holds a user or password; they belong in the pull's credentials".to_owned(),
        ));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(malformed(format!("the host {url:?} has a query or fragment")));
    }
    let mut api = base.path().trim_end_matches('/').to_owned();
    if !raw.override_path && !api.ends_with("/v2") {
        api.push_str("/v2");
    }
    base.set_path(&api);
    if raw.client.is_some() || raw.header.is_some() {
        tracing::warn!(
            path = %path.display(),
            host = %base,
            "client certificates and headers of hosts.toml are not used yet"
        );
    }
    let capabilities = match &raw.capabilities {
        Some(names) => read_capabilities(names, path)?,
        None => Capabilities {
            pull: true,
            resolve: true,
        },
    };
    Ok(Host {
        base,
        capabilities,
        role,
        trust: trust(&raw, path)?,
    })
}

fn read_capabilities(names: &[String], path: &Path) -> Result<Capabilities, MalformedHosts> {
    let mut capabilities = Capabilities::default();
    for name in names {
        match name.as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" | "referrers" => {}
            other => {
                return Err(MalformedHosts {
                    path: path.to_owned(),
                    reason: format!("capability {other:?} is none of pull, resolve, push"),
                });
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
    let mut authorities = Vec::with_capacity(files.len());
    for file in files {
        let pem = read(&file)?.ok_or_else(|| MalformedHosts {
            path: path.to_owned(),
            reason: format!("the CA file {} does not exist", file.display()),
        })?;
        authorities.push(pem);
    }
    Ok(Trust {
        authorities,
        skip_verify: raw.skip_verify,
    })
}

/// The registry itself, where no file says otherwise.
fn server(registry: &str, trust: Trust) -> Host {
    let host = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let base = Url::parse(&format!("{}://{host}/v2", scheme_for(host)))
        .expect("a reference's registry was checked to be a host with or without a port");
    Host {
        base,
        capabilities: Capabilities {
            pull: true,
            resolve: true,
        },
        role: Role::Server,
        trust,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(text: &str) -> Vec<String> {
        parse(text, Path::new("/certs.d/x/hosts.toml"), "docker.io")
            .unwrap()
            .iter()
            .map(|host| host.base.to_string())
            .collect()
    }

    #[test]
    fn without_files_the_registry_serves_itself() {
        for (registry, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("r.example:5000", "https://r.example:5000/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost.evil.example", "https://localhost.evil.example/v2"),
        ] {
            let hosts = hosts_for(&[], registry).unwrap();
            assert_eq!(hosts[0].base.as_str(), base);
        }
    }

    #[test]
    fn mirrors_are_asked_in_the_file_s_order() {
        let text = r#"
            server = "https://docker.io"
            [host."https://z.example"]
              capabilities = ["pull"]
            [host."http://a.example:80/proxy/"]
              capabilities = ["pull", "resolve", "push"]
              skip_verify = true
            [host."https://m.example/v2/hub"]
              override_path = true
        "#;
        assert_eq!(
            bases(text),
            [
                "https://z.example/v2",
                "http://a.example/proxy/v2",
                "https://m.example/v2/hub",
                "https://docker.io/v2"
            ]
        );
        let hosts = parse(text, Path::new("/x/hosts.toml"), "docker.io").unwrap();
        assert!(!hosts[0].capabilities.resolve && hosts[1].trust.skip_verify);
        assert_eq!((hosts[0].role, hosts[3].role), (Role::Mirror, Role::Server));
    }

    #[test]
    fn directories_are_found_as_containerd_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, server: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let text = format!("server = {server:?}\nunknown_setting = 3\n");
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        };
        put("_default", "http://default.example");
        put("r.example_5000_", "http://port.example");
        let dirs = [dir.path().to_owned()];
        let base = |registry: &str| hosts_for(&dirs, registry).unwrap()[0].base.to_string();
        assert_eq!(base("r.example:5000"), "http://port.example/v2");
        assert_eq!(base("other.example"), "http://default.example/v2");
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused() {
        for bad in [
            "server = 3",
            "[host.\"ftp://x\"]",
            "[host.\"https://user:secret@x\"]",
            "[host.\"https://x\"]\ncapabilities = [\"fly\"]",
            "[host.\"https://x\"]\nca = \"missing.pem\"",
            "[host.\"https://x\"]\nskip_verify = \"yes\"",
        ] {
            let error = parse(bad, Path::new("/nowhere/hosts.toml"), "r.example").unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
