//! Whether the name that a signature claims is the name of the image (`signedIdentity`).

use crate::reference::Reference;

/// How the name in a signature must agree with the name that is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The very same reference.
    Exact,
    /// The same tag, or by digest the same repository.
    #[default]
    RepoDigestOrExact,
    /// The same repository, whatever the tag.
    Repository,
    /// This reference, whatever name is used.
    ExactReference(Reference),
    /// This repository (`name` of a reference), whatever name is used.
    ExactRepository(String),
    /// As `RepoDigestOrExact`, for what a mirror below `prefix` holds of `signed_prefix`.
    Remap { prefix: String, signed_prefix: String },
}

const KINDS: &str = "matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository \
                     and remapIdentity";

impl Identity {
    /// From a type and the fields that came with it.
    pub(super) fn read(kind: &str, given: [(&'static str, Option<String>); 4]) -> Result<Self, String> {
        let wanted: &[&str] = match kind {
            "matchExact" | "matchRepoDigestOrExact" | "matchRepository" => &[],
            "exactReference" => &["dockerReference"],
            "exactRepository" => &["dockerRepository"],
            "remapIdentity" => &["prefix", "signedPrefix"],
            other => {
                let other: String = other.chars().take(80).collect();
                return Err(format!(
                    "signedIdentity.type {other:?} is unknown: known are {KINDS}"
                ));
            }
        };
        let mut values = Vec::new();
        for (name, value) in given {
            match (value, wanted.contains(&name)) {
                (Some(value), true) => values.push(value),
                (None, true) => return Err(format!("signedIdentity of type {kind} needs {name}")),
                (Some(_), false) => {
                    return Err(format!(
                        "signedIdentity of type {kind} takes no {name}: leave it out"
                    ));
                }
                (None, false) => {}
            }
        }
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or_default();
        Ok(match kind {
            "matchExact" => Self::Exact,
            "matchRepository" => Self::Repository,
            "exactReference" => {
                let text = next();
                let reference = named(&text).filter(|_| !is_name_only(&text));
                Self::ExactReference(reference.ok_or_else(|| {
                    format!("dockerReference {text:?} is no reference with a tag or digest")
                })?)
            }
            "exactRepository" => {
                let text = next();
                let reference = named(&text).filter(|_| is_name_only(&text));
                let reference = reference.ok_or_else(|| {
                    format!("dockerRepository {text:?} is no repository without tag and digest")
                })?;
                Self::ExactRepository(reference.name())
            }
            "remapIdentity" => {
                let (prefix, signed_prefix) = (next(), next());
                for text in [&prefix, &signed_prefix] {
                    check_prefix(text)?;
                }
                Self::Remap {
                    prefix,
                    signed_prefix,
                }
            }
            _ => Self::RepoDigestOrExact,
        })
    }

    /// Whether a signature that claims `signed` is one for `used`.
    pub(super) fn fits(&self, used: &Reference, signed: &str) -> bool {
        let Some(claimed) = named(signed) else {
            return false;
        };
        let whole = !is_name_only(signed);
        match self {
            Self::Exact => whole && claimed == *used,
            Self::RepoDigestOrExact => whole && repo_digest_or_exact(used, &claimed),
            Self::Repository => claimed.name() == used.name(),
            Self::ExactReference(wanted) => whole && claimed == *wanted,
            Self::ExactRepository(name) => claimed.name() == *name,
            Self::Remap {
                prefix,
                signed_prefix,
            } => {
                whole
                    && remapped(used, prefix, signed_prefix)
                        .is_some_and(|used| repo_digest_or_exact(&used, &claimed))
            }
        }
    }
}

fn repo_digest_or_exact(used: &Reference, claimed: &Reference) -> bool {
    match used.digest() {
        // Which content it is, the digest in the payload says.
        Some(_) => claimed.name() == used.name(),
        None => claimed == used,
    }
}

/// `used` as the signer called it; itself where the prefix does not fit.
fn remapped(used: &Reference, prefix: &str, signed_prefix: &str) -> Option<Reference> {
    let name = used.name();
    match name.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let whole = used.to_string();
            named(&format!("{signed_prefix}{}", &whole[prefix.len()..]))
        }
        _ => Some(used.clone()),
    }
}

fn named(text: &str) -> Option<Reference> {
    text.parse().ok()
}

/// Neither a tag nor a digest; a reference would read as `latest` then.
fn is_name_only(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    !last.contains([':', '@'])
}

/// A host, or a host and a path, written out: both are compared as text.
fn check_prefix(text: &str) -> Result<(), String> {
    let refused = || {
        format!(
            "the prefix {:?} is no host or host/path as an image's full name begins (docker.io/library)",
            text.chars().take(80).collect::<String>()
        )
    };
    let tail = if text.contains('/') { "" } else { "/x" };
    let reference = named(&format!("{text}{tail}")).ok_or_else(refused)?;
    let path = text.split_once('/').map_or("", |(_, path)| path);
    if reference.name() == format!("{text}{tail}") && !path.contains([':', '@']) {
        Ok(())
    } else {
        Err(refused())
    }
}
