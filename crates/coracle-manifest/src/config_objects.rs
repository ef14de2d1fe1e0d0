//! ConfigMaps and Secrets of the same files, which pods refer to by name.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fields::At;

/// A ConfigMap or a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigObject {
    secret: bool,
    name: String,
    namespace: String,
    pub(crate) data: BTreeMap<String, Vec<u8>>,
}

/// All of them, seen from one pod's namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigObjects<'a> {
    pub(crate) all: &'a [ConfigObject],
    pub(crate) namespace: &'a str,
}

/// Reads the document of a ConfigMap or Secret.
pub(crate) fn read(at: &At<'_>, secret: bool) -> Option<ConfigObject> {
    let mut fields = at.fields()?;
    fields.get("apiVersion");
    fields.get("kind");
    fields.get("immutable");
    let (name, namespace) = name_of(&fields.required("metadata")?)?;
    let mut data = BTreeMap::new();
    let (encoded, plain) = if secret {
        ("data", "stringData")
    } else {
        ("binaryData", "data")
    };
    if secret {
        fields.get("type");
    }
    for (key, at) in fields.get(encoded).iter().flat_map(At::entries) {
        let Some(text) = at.text() else { continue };
        let text: String = text.split_ascii_whitespace().collect();
        match STANDARD.decode(text) {
            Ok(bytes) => drop(data.insert(key, bytes)),
            Err(error) => at.refuse(format!("is no base64 ({error}): put plain text under {plain}")),
        }
    }
    for (key, at) in fields.get(plain).iter().flat_map(At::entries) {
        if let Some(text) = at.text() {
            data.insert(key, text.into_bytes());
        }
    }
    fields.finish();
    let file_name = |key: &str| {
        !key.is_empty()
            && key != ".."
            && key.len() <= 253
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if let Some(key) = data.keys().find(|key| !file_name(key)) {
        at.refuse(format!("key {key:?}: give letters, digits, '-', '_' and '.'"));
    }
    Some(ConfigObject {
        secret,
        name,
        namespace,
        data,
    })
}

/// Name and namespace; the rest of the metadata says nothing here.
fn name_of(at: &At<'_>) -> Option<(String, String)> {
    let mut fields = at.fields()?;
    let name = fields.required("name")?.text()?;
    let namespace = fields.text("namespace");
    Some((
        name,
        if namespace.is_empty() {
            "default".to_owned()
        } else {
            namespace
        },
    ))
}

impl ConfigObjects<'_> {
    /// The object that `at` names in its field `field`; `optional: true` lets it be missing.
    pub(crate) fn named(&self, at: &At<'_>, field: &'static str, secret: bool) -> Option<&ConfigObject> {
        let mut fields = at.fields()?;
        let name = fields.required(field);
        let optional = fields.bool("optional").unwrap_or(false);
        fields.finish();
        let at = name?;
        self.find(&at, &at.text()?, secret, optional)
    }

    /// The object of that name; `at` is where it is asked for.
    pub(crate) fn find(
        &self,
        at: &At<'_>,
        name: &str,
        secret: bool,
        optional: bool,
    ) -> Option<&ConfigObject> {
        let found = self.all.iter().rev().find(|object| {
            object.secret == secret && object.name == name && object.namespace == self.namespace
        });
        if found.is_none() && !optional {
            let kind = if secret { "Secret" } else { "ConfigMap" };
            at.refuse(format!(
                "no {kind} {name:?} of namespace {:?} stands in these files: add it, or give its file with --configmap",
                self.namespace
            ));
        }
        found
    }

    /// The value of a `configMapKeyRef` or `secretKeyRef`.
    pub(crate) fn value(&self, at: &At<'_>, secret: bool) -> Option<String> {
        let mut fields = at.fields()?;
        let name = fields.required("name");
        let key = fields.required("key");
        let optional = fields.bool("optional").unwrap_or(false);
        fields.finish();
        let (name, key_at) = (name?, key?);
        let key = key_at.text()?;
        let object = self.find(&name, &name.text()?, secret, optional)?;
        let Some(value) = object.data.get(&key) else {
            if !optional {
                key_at.refuse(format!(
                    "{:?} has no key {key:?}: it has {}",
                    object.name,
                    object.keys()
                ));
            }
            return None;
        };
        if let Ok(text) = String::from_utf8(value.clone()) {
            return Some(text);
        }
        key_at.refuse(format!(
            "the value of {key:?} is no text: mount it as a file instead"
        ));
        None
    }
}

impl ConfigObject {
    /// Its keys in words.
    pub(crate) fn keys(&self) -> String {
        if self.data.is_empty() {
            return "none".to_owned();
        }
        self.data
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    }
}
