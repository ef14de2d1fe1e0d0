//! Image references as Docker's users write them, normalised, and refused when they are not one.

use std::fmt;
use std::str::FromStr;

use coracle_types::Digest;

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The name space of Docker Hub's official images.
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest registry and repository together (the distribution project's grammar).
const MAX_NAME: usize = 255;
/// Longest tag (OCI distribution specification, "Pulling manifests").
const MAX_TAG: usize = 128;
/// Longest text that is looked at: a name, a tag and a digest with their separators.
const MAX_TEXT: usize = MAX_NAME + MAX_TAG + 80;

/// A text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?} is malformed: {reason}")]
pub struct MalformedReference {
    /// The text as it was given, cut after 80 characters.
    pub text: String,
    /// What is wrong, and what would be right.
    pub reason: &'static str,
}

/// A registry, a repository in it, and a tag or a digest (or both, then the digest decides).
///
/// Always whole: `busybox` reads as `docker.io/library/busybox:latest`. The parts can be put into a
/// URL or compared without another look.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host with its port, `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository without the registry, such as `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; present whenever the digest is not.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, such as `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `name:tag` as CRI's `repo_tags` has it; `None` where a digest decides what is meant.
    #[must_use]
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.digest, &self.tag) {
            (None, Some(tag)) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// `name@digest` as CRI's `repo_digests` has it, for a manifest of this repository.
    #[must_use]
    pub fn repo_digest(&self, manifest: &Digest) -> String {
        format!("{}@{manifest}", self.name())
    }
}

impl FromStr for Reference {
    type Err = MalformedReference;

    fn from_str(text: &str) -> Result<Self, MalformedReference> {
        parse(text).map_err(|reason| MalformedReference {
            text: text.chars().take(80).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty; give a name such as registry.example/team/app:1.0");
    }
    if text.len() > MAX_TEXT {
        return Err("it is longer than a name (255), a tag (128) and a digest can be");
    }
    if is_hex64(text) {
        return Err("64 hexadecimal digits are an image's id, not a name");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse::<Digest>()
                .map_err(|_| "after '@' stands sha256: and 64 lower-case hexadecimal digits")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    let registry = match registry.map(str::to_ascii_lowercase).as_deref() {
        None | Some("index.docker.io" | "registry-1.docker.io") => DEFAULT_REGISTRY.to_owned(),
        Some(registry) => {
            check_registry(registry)?;
            registry.to_owned()
        }
    };
    check_repository(repository)?;
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("{OFFICIAL}/{repository}")
    } else {
        repository.to_owned()
    };
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err("registry and repository are longer than 255 characters");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (None, Some(_)) => None,
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A colon after the last slash begins a tag; one before it begins a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rfind(':') {
        Some(colon) if !text[colon..].contains('/') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    }
}

/// The first component is a registry when it looks like a host: a dot, a port, `localhost`, brackets.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost") => {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    let whole = !bytes.is_empty()
        && bytes.len() <= MAX_TAG
        && plain(bytes[0])
        && bytes.iter().all(|&b| plain(b) || b == b'.' || b == b'-');
    if whole {
        Ok(())
    } else {
        Err("a tag is 1 to 128 of A-Z a-z 0-9 _ . - and begins with none of the last two")
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    const MALFORMED: &str = "a registry is a host name, an IPv4 address or an IPv6 address in brackets, \
                             with or without a port";
    let (host, port) = if let Some(bracketed) = registry.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']').ok_or(MALFORMED)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| MALFORMED)?;
        (
            None,
            after.strip_prefix(':').or((!after.is_empty()).then_some("x")),
        )
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host_ok = host.is_none_or(|host| host.split('.').all(label));
    let port_ok = port.is_none_or(|port| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if host_ok && port_ok {
        Ok(())
    } else {
        Err(MALFORMED)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` separated by slashes (OCI distribution specification).
fn check_repository(repository: &str) -> Result<(), &'static str> {
    const MALFORMED: &str = "a repository is parts of a-z 0-9, joined inside by one of . _ __ or dashes, \
                             and separated by /";
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository has no upper-case letters");
    }
    let whole = !repository.is_empty() && repository.split('/').all(is_component);
    if whole { Ok(()) } else { Err(MALFORMED) }
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes
        .split(|&b| alphanumeric(b))
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|&b| b == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_become_whole() {
        let hex = "a".repeat(64);
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/app", "docker.io/team/app:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("LocalHost/app", "localhost/app:latest"),
            ("Index.Docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("Registry.Example/a", "registry.example/a:latest"),
            (
                "registry.k8s.io/e2e/busybox:1.29-2",
                "registry.k8s.io/e2e/busybox:1.29-2",
            ),
            ("a__b/c--d.e", "docker.io/a__b/c--d.e:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole, "{text}");
        }
        let by_digest: Reference = format!("r.example/a@sha256:{hex}").parse().unwrap();
        assert_eq!((by_digest.tag(), by_digest.repo_tag()), (None, None));
        let both: Reference = format!("r.example/a:1@sha256:{hex}").parse().unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.repo_tag(), None, "the digest decides, no tag is claimed");
    }

    #[test]
    fn hostile_references_are_refused() {
        let hex = "a".repeat(64);
        let long = format!("r.example/{}", "a".repeat(300));
        for bad in [
            "",
            ":tag",
            "@",
            "a:",
            "a/B",
            "A/a",
            "../etc",
            "a/../b",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a\n",
            "a:t\n",
            "r.example:99999/a",
            "r.example:0/a",
            "r.example:/a",
            "-r.example/a",
            "r.example/a@sha256:../../x",
            "r.example/a@sha512:00",
            "r.example/a?x=y",
            "r.example/a#x",
            "user:pass@r.example/a",
            "http://r.example/a",
            "[::1/a",
            "[::1]x/a",
            "a.-b/c",
            "a___b",
            "a._b",
            "ä/b",
            "r.example/a:ä",
            "a%2f..",
            &hex,
            &long,
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,100}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_is_printed_is_read_back(text in "[a-zA-Z0-9._/:@\\-\\[\\]]{1,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
                let plain = |b: u8| b.is_ascii_graphic() && !b"?#%\\\"<>^`{|}".contains(&b);
                prop_assert!(reference.to_string().bytes().all(plain));
                prop_assert!(!reference.name().contains(".."));
                prop_assert!(reference.tag().is_none_or(|tag| !tag.starts_with('.')));
            }
        }

        #[test]
        fn well_formed_names_are_read(
            host in "[a-z][a-z0-9]{0,8}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?",
            path in "[a-z0-9]{1,5}([._\\-][a-z0-9]{1,3})?(/[a-z0-9]{1,5}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.\\-]{0,20}",
        ) {
            let reference: Reference = format!("{host}/{path}:{tag}").parse().unwrap();
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
            prop_assert!(reference.name().ends_with(&path));
        }
    }
}
