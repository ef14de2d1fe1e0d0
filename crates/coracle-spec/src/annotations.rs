//! Annotations of a specification: who the container is, for shims, hooks and NRI plugins.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::Spec;

use crate::environment::Environment;
use crate::input::ContainerInput;

/// Carries environment values that are not UTF-8, which JSON cannot: a JSON object from name to the
/// value's bytes in hexadecimal. Read it with [`raw_environment`]; such values are in `process.env`
/// too, with U+FFFD in place of what is not UTF-8, for runtimes that do not know this key.
pub const RAW_ENVIRONMENT: &str = "dev.coracle.raw-environment";

/// The keys by which shims of containerd know a container.
pub(crate) fn annotations(input: &ContainerInput<'_>, environment: &Environment) -> HashMap<String, String> {
    let mut annotations = HashMap::new();
    pass_through(
        &input.pod.annotations,
        &input.defaults.pod_annotations,
        &mut annotations,
    );
    pass_through(
        &input.container.annotations,
        &input.defaults.container_annotations,
        &mut annotations,
    );
    let image = &input.container.image;
    let image_name = if image.user_specified_image.is_empty() {
        &image.image
    } else {
        &image.user_specified_image
    };
    let metadata = &input.pod.metadata;
    for (key, value) in [
        ("container-type", "container"),
        ("sandbox-id", input.pod_id.as_str()),
        ("sandbox-namespace", &metadata.namespace),
        ("sandbox-uid", &metadata.uid),
        ("sandbox-name", &metadata.name),
        ("container-name", &input.container.metadata.name),
        ("image-name", image_name),
    ] {
        annotations.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
    }
    annotations.remove(RAW_ENVIRONMENT);
    let raw: BTreeMap<&str, String> = environment
        .raw()
        .map(|(name, value)| (name, hexadecimal(value)))
        .collect();
    if !raw.is_empty() {
        let json = serde_json::to_string(&raw).expect("a map of strings is JSON");
        annotations.insert(RAW_ENVIRONMENT.to_owned(), json);
    }
    annotations
}

/// Only what the node's administrator allowed by key reaches the runtime (CVE-2023-6476).
fn pass_through(from: &BTreeMap<String, String>, allowed: &[String], into: &mut HashMap<String, String>) {
    let allows = |key: &str| {
        allowed.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == rule,
        })
    };
    into.extend(
        from.iter()
            .filter(|(key, _)| allows(key))
            .map(|(key, value)| (key.clone(), value.clone())),
    );
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The environment values of `spec` that are not UTF-8, by name; they stand for the entries of the
/// same names in `process.env`. Malformed content reads as nothing.
#[must_use]
pub fn raw_environment(spec: &Spec) -> BTreeMap<String, Vec<u8>> {
    let Some(json) = spec
        .annotations()
        .as_ref()
        .and_then(|map| map.get(RAW_ENVIRONMENT))
    else {
        return BTreeMap::new();
    };
    let Ok(map) = serde_json::from_str::<BTreeMap<String, String>>(json) else {
        return BTreeMap::new();
    };
    map.into_iter()
        .filter_map(|(name, value)| Some((name, bytes(&value)?)))
        .collect()
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    hexadecimal
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}
