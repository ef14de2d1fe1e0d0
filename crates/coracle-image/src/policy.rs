//! Signature policy: which images may be used, and who must have signed them (containers-policy.json(5)).
//!
//! A policy is JSON with requirements by scope; of the scopes that fit an image the most specific
//! counts alone, and all of its requirements must be met. Known are `insecureAcceptAnything`, `reject`
//! and `sigstoreSigned` with public keys. What is known by name but cannot be judged here (`signedBy`,
//! Fulcio certificates, Rekor logs) refuses every image of its scope: a policy never means less than it
//! says.

mod attachments;
mod document;
mod identity;
mod judge;
mod keys;
mod payload;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use coracle_types::{Kind, Kinded};

use self::identity::Identity;
use self::keys::{KeySource, PublicKey};
use crate::reference::Reference;

/// Longest policy and longest key file that are read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A policy that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signature policy {}{}: {reason}", path.display(), at(*line))]
pub struct MalformedPolicy {
    /// Its file.
    pub path: PathBuf,
    /// The line that is to blame, where one is known.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub reason: String,
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

impl Kinded for MalformedPolicy {
    fn kind(&self) -> Kind {
        Kind::SignatureValidationFailed
    }
}

/// An image that the policy does not allow, or that cannot be shown to be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (policy {}, {scope})", path.display())]
pub struct Refusal {
    /// The policy's file.
    pub path: PathBuf,
    /// The scope that counts for the image, or `default`.
    pub scope: String,
    /// Which requirement is not met, and why.
    pub reason: String,
}

/// What one scope asks of an image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Requirement {
    AcceptAnything,
    Reject,
    /// Asks for something that is not judged here; refuses.
    Unsupported(&'static str),
    Signed(SignedBy),
}

/// A signature by any of these keys that claims this identity.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SignedBy {
    pub(crate) sources: Vec<KeySource>,
    /// Read from the sources; empty until then, which no signature meets.
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) identity: Identity,
}

/// A policy with its keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    path: PathBuf,
    default: Vec<Requirement>,
    docker: BTreeMap<String, Vec<Requirement>>,
}

impl Policy {
    /// Reads a policy and the keys that it names; blocks.
    ///
    /// # Errors
    /// With file, line and remedy when it is malformed, names what it must not, or a key cannot be read.
    pub fn load(path: &Path) -> Result<Self, MalformedPolicy> {
        let text = read(path).map_err(|reason| MalformedPolicy {
            path: path.to_owned(),
            line: None,
            reason,
        })?;
        let mut policy = Self::parse(path, &text)?;
        let text = String::from_utf8_lossy(&text);
        let requirements = policy
            .default
            .iter_mut()
            .chain(policy.docker.values_mut().flatten());
        for requirement in requirements {
            let Requirement::Signed(signed) = requirement else {
                continue;
            };
            for source in &signed.sources {
                let key = source.read().map_err(|reason| MalformedPolicy {
                    path: path.to_owned(),
                    line: source.line_in(&text),
                    reason,
                })?;
                signed.keys.push(key);
            }
        }
        Ok(policy)
    }

    /// Reads a policy's text, for errors called `path`, without the files that it names.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, MalformedPolicy> {
        let document = document::read(text).map_err(|(line, reason)| MalformedPolicy {
            path: path.to_owned(),
            line,
            reason,
        })?;
        Ok(Self {
            path: path.to_owned(),
            default: document.default,
            docker: document.docker,
        })
    }

    /// Scopes whose images are all refused since their requirement is not judged here, with its name.
    pub fn unsupported(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let default = std::iter::once(("default", &self.default));
        let scopes = self.docker.iter().map(|(scope, all)| (scope.as_str(), all));
        default.chain(scopes).flat_map(|(scope, all)| {
            all.iter().filter_map(move |requirement| match requirement {
                Requirement::Unsupported(what) => Some((scope, *what)),
                _ => None,
            })
        })
    }

    /// What counts for an image: the most specific scope, and its requirements.
    fn requirements(&self, reference: &Reference) -> (String, &[Requirement]) {
        let found = scopes(reference)
            .into_iter()
            .chain(std::iter::once(String::new()))
            .find_map(|scope| self.docker.get_key_value(&scope));
        match found {
            Some((scope, requirements)) => (format!("scope {scope:?}"), requirements),
            None => ("default".to_owned(), &self.default),
        }
    }

    fn refusal(&self, scope: &str, reason: impl Into<String>) -> Refusal {
        Refusal {
            path: self.path.clone(),
            scope: scope.to_owned(),
            reason: reason.into(),
        }
    }
}

/// The scopes that an image lies in, the most specific first: itself, its repository, the paths above
/// it, the registry, and the registry's domains as `*.example.com`.
fn scopes(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let own = reference.digest().map(|digest| reference.repo_digest(digest));
    let mut scopes: Vec<String> = own.or_else(|| reference.repo_tag()).into_iter().collect();
    let mut rest = name.as_str();
    loop {
        scopes.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    // An address in brackets has no domains.
    let mut host = if rest.starts_with('[') {
        ""
    } else {
        rest.split(':').next().unwrap_or_default()
    };
    while let Some((_, domain)) = host.split_once('.') {
        scopes.push(format!("*.{domain}"));
        host = domain;
    }
    scopes
}

/// A file that an administrator wrote, bounded.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let plain = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !plain {
        return Err("it is not a regular file".to_owned());
    }
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("it is longer than {MAX_FILE} bytes"));
    }
    Ok(bytes)
}

/// Where the policies of a node are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySource {
    /// The node's policy; without one every image is accepted.
    pub node: Option<std::sync::Arc<Policy>>,
    /// Policies of Kubernetes namespaces, `<namespace>.json`, each in place of the node's.
    pub namespaces: Option<PathBuf>,
}

impl PolicySource {
    /// The policy that counts for an image which a pod of `namespace` needs; blocks. A namespace's
    /// policy is read each time, so that a change of it counts at once.
    ///
    /// # Errors
    /// When the namespace's policy cannot be used, or its name can name no file: nothing is allowed then.
    pub fn policy_for(
        &self,
        namespace: Option<&str>,
    ) -> Result<Option<std::sync::Arc<Policy>>, MalformedPolicy> {
        // Who names none is in none: crictl does so.
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let (Some(dir), Some(namespace)) = (&self.namespaces, namespace) else {
            return Ok(self.node.clone());
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let well_formed = (1..=253).contains(&namespace.len())
            && namespace.bytes().all(plain)
            && !namespace.starts_with('.');
        if !well_formed {
            return Err(MalformedPolicy {
                path: dir.clone(),
                line: None,
                reason: format!(
                    "the namespace {:?} cannot name a file in it: a namespace is of a-z, 0-9 and '-'",
                    namespace.chars().take(80).collect::<String>()
                ),
            });
        }
        let path = dir.join(format!("{namespace}.json"));
        match std::fs::symlink_metadata(&path) {
            Ok(_) => Policy::load(&path).map(|policy| Some(std::sync::Arc::new(policy))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(self.node.clone()),
            Err(error) => Err(MalformedPolicy {
                path,
                line: None,
                reason: format!("it cannot be looked at: {error}"),
            }),
        }
    }
}
