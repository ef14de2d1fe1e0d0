//! A policy's JSON, read strictly: unknown fields, double keys and empty lists are refused.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::identity::Identity;
use super::keys::KeySource;
use super::{Requirement, SignedBy};

/// Most keys that one requirement may name.
const MAX_KEYS: usize = 100;

/// What a policy says.
pub(super) struct Document {
    pub(super) default: Vec<Requirement>,
    pub(super) docker: BTreeMap<String, Vec<Requirement>>,
}

/// Reads it; a refusal comes with its line, where one is known.
pub(super) fn read(text: &[u8]) -> Result<Document, (Option<usize>, String)> {
    let raw: RawPolicy = serde_json::from_slice(text).map_err(|error| {
        let said = error.to_string();
        // The line is said apart.
        let reason = said
            .rsplit_once(" at line ")
            .map_or(said.as_str(), |(reason, _)| reason);
        let line = (error.line() > 0).then(|| line_before(text, reason, error.line()));
        (line, reason.chars().take(400).collect())
    })?;
    let mut transports = raw.transports.0;
    let docker = transports.remove("docker").unwrap_or_default().0;
    if let Some((scope, remedy)) = docker.keys().find_map(|scope| Some((scope, never_fits(scope)?))) {
        let line = line_of(&String::from_utf8_lossy(text), scope);
        return Err((
            line,
            format!("scope {scope:?} of transport docker fits no image: {remedy}"),
        ));
    }
    Ok(Document {
        default: raw.default.0,
        docker: docker.into_iter().map(|(scope, all)| (scope, all.0)).collect(),
    })
}

/// The line that is to blame: serde tells where it was when it heard of a refusal, which is behind what is
/// refused. The refusal quotes that, or speaks of a list.
fn line_before(text: &[u8], reason: &str, reported: usize) -> usize {
    // These are told on the spot.
    if reason.contains('`') {
        return reported;
    }
    let quoted = reason.split('"').nth(1).map(|value| format!("\"{value}\""));
    let blamed = quoted.unwrap_or_else(|| "[".to_owned());
    let text = String::from_utf8_lossy(text);
    let mut before = text.lines().take(reported).collect::<Vec<_>>();
    while let Some(line) = before.pop() {
        if line.contains(&blamed) {
            return before.len() + 1;
        }
    }
    reported
}

/// The line in which a string stands, as JSON writes it.
pub(super) fn line_of(text: &str, string: &str) -> Option<usize> {
    let written = serde_json::to_string(string).ok()?;
    let found = text.lines().position(|line| line.contains(&written))?;
    Some(found + 1)
}

/// Why a scope can never fit, which would leave its images to a weaker one.
fn never_fits(scope: &str) -> Option<&'static str> {
    if scope.contains("://") {
        return Some("write it without docker://");
    }
    let wildcard = scope.strip_prefix("*.").unwrap_or(scope);
    if wildcard.contains('*') {
        return Some("`*` stands for the first parts of a host name only: \"*.example.com\"");
    }
    if scope.starts_with("*.") && wildcard.contains(['/', ':', '@']) {
        return Some("behind \"*.\" stands a domain, without port, path or tag");
    }
    if scope.ends_with('/') {
        return Some("leave the last / out");
    }
    None
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Requirements,
    #[serde(default)]
    transports: Unique<Unique<Requirements>>,
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<RawRequirement>")]
struct Requirements(Vec<Requirement>);

impl TryFrom<Vec<RawRequirement>> for Requirements {
    type Error = &'static str;

    fn try_from(raw: Vec<RawRequirement>) -> Result<Self, Self::Error> {
        if raw.is_empty() {
            return Err("a list of requirements must not be empty: to refuse all write one of type reject");
        }
        Ok(Self(raw.into_iter().map(|raw| raw.0).collect()))
    }
}

/// Judged while it is read, so that a refusal carries its line.
#[derive(Deserialize)]
#[serde(try_from = "Fields")]
struct RawRequirement(Requirement);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    key_type: Option<String>,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    fulcio: Option<IgnoredAny>,
    pki: Option<IgnoredAny>,
    rekor_public_key_path: Option<IgnoredAny>,
    rekor_public_key_paths: Option<IgnoredAny>,
    rekor_public_key_data: Option<IgnoredAny>,
    rekor_public_key_datas: Option<IgnoredAny>,
    signed_identity: Option<RawIdentity>,
}

impl TryFrom<Fields> for RawRequirement {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let requirement = match fields.kind.as_str() {
            "insecureAcceptAnything" | "reject" => {
                if let Some(field) = fields.given().next() {
                    return Err(format!(
                        "{field} means nothing with type {:?}: leave it out",
                        fields.kind
                    ));
                }
                if fields.kind == "reject" {
                    Requirement::Reject
                } else {
                    Requirement::AcceptAnything
                }
            }
            "signedBy" => Requirement::Unsupported("signedBy (GPG signatures)"),
            "sigstoreSigned" => fields.sigstore()?,
            other => {
                return Err(format!(
                    "type {:?} is unknown: known are insecureAcceptAnything, reject, sigstoreSigned and signedBy",
                    other.chars().take(80).collect::<String>()
                ));
            }
        };
        Ok(Self(requirement))
    }
}

impl Fields {
    /// The fields that are there, beside the type.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.key_type.is_some(), "keyType"),
            (self.signed_identity.is_some(), "signedIdentity"),
        ]
        .into_iter()
        .chain(self.of_keys())
        .chain(self.of_rekor())
        .filter_map(|(given, name)| given.then_some(name))
    }

    fn of_keys(&self) -> [(bool, &'static str); 6] {
        [
            (self.key_path.is_some(), "keyPath"),
            (self.key_paths.is_some(), "keyPaths"),
            (self.key_data.is_some(), "keyData"),
            (self.key_datas.is_some(), "keyDatas"),
            (self.fulcio.is_some(), "fulcio"),
            (self.pki.is_some(), "pki"),
        ]
    }

    fn of_rekor(&self) -> [(bool, &'static str); 4] {
        [
            (self.rekor_public_key_path.is_some(), "rekorPublicKeyPath"),
            (self.rekor_public_key_paths.is_some(), "rekorPublicKeyPaths"),
            (self.rekor_public_key_data.is_some(), "rekorPublicKeyData"),
            (self.rekor_public_key_datas.is_some(), "rekorPublicKeyDatas"),
        ]
    }

    fn sigstore(self) -> Result<Requirement, String> {
        if self.key_type.is_some() {
            return Err("keyType means nothing with type \"sigstoreSigned\": leave it out".to_owned());
        }
        let keys = self.of_keys().into_iter().filter(|(given, _)| *given).count();
        if keys != 1 {
            return Err(format!(
                "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki says who signs; {keys} are given"
            ));
        }
        if self.fulcio.is_some() || self.pki.is_some() {
            return Ok(Requirement::Unsupported(
                "sigstoreSigned by certificates (fulcio, pki)",
            ));
        }
        if self.of_rekor().iter().any(|(given, _)| *given) {
            return Ok(Requirement::Unsupported(
                "sigstoreSigned with a Rekor log (rekorPublicKey...)",
            ));
        }
        let files = self
            .key_path
            .into_iter()
            .chain(self.key_paths.into_iter().flatten());
        let data = self
            .key_data
            .into_iter()
            .chain(self.key_datas.into_iter().flatten());
        let sources: Vec<KeySource> = files
            .map(KeySource::File)
            .chain(data.map(KeySource::Data))
            .collect();
        if sources.is_empty() || sources.len() > MAX_KEYS {
            return Err(format!("it names {} keys: give 1 to {MAX_KEYS}", sources.len()));
        }
        for source in &sources {
            source.check()?;
        }
        Ok(Requirement::Signed(SignedBy {
            sources,
            keys: Vec::new(),
            identity: self.signed_identity.map(|raw| raw.0).unwrap_or_default(),
        }))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "IdentityFields")]
struct RawIdentity(Identity);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IdentityFields {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

impl TryFrom<IdentityFields> for RawIdentity {
    type Error = String;

    fn try_from(raw: IdentityFields) -> Result<Self, String> {
        let (kind, given) = (
            raw.kind,
            [
                ("dockerReference", raw.docker_reference),
                ("dockerRepository", raw.docker_repository),
                ("prefix", raw.prefix),
                ("signedPrefix", raw.signed_prefix),
            ],
        );
        Identity::read(&kind, given).map(Self)
    }
}

/// A JSON object none of whose keys stands twice: which one would count is not certain.
struct Unique<T>(BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
            type Value = Unique<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if all.contains_key(&key) {
                        return Err(A::Error::custom(format!("the key {key:?} stands twice")));
                    }
                    let value = map.next_value()?;
                    all.insert(key, value);
                }
                Ok(Unique(all))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}
