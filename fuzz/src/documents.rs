//! Manifests, indexes, configurations and signature policies: refused in words, in memory that the input bounds.

use std::path::Path;

use coracle_image::{Policy, manifest};

/// Media types that a registry may serve a document with; the first byte chooses.
const SERVED: [&str; 6] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "",
    "text/html",
];

/// A manifest or index.
pub(crate) fn manifest(input: &[u8]) {
    let Some((first, document)) = input.split_first() else {
        return;
    };
    let served = SERVED[usize::from(*first) % SERVED.len()];
    if let Err(refusal) = manifest::check(document, served) {
        said(&refusal.to_string());
    }
}

/// An image's configuration; the first byte is the number of layers that its manifest has.
pub(crate) fn config(input: &[u8]) {
    let Some((layers, document)) = input.split_first() else {
        return;
    };
    if let Err(refusal) = manifest::check_config(document, usize::from(*layers)) {
        said(&refusal.to_string());
    }
}

/// A signature policy.
pub(crate) fn policy(input: &[u8]) {
    match Policy::parse(Path::new("policy.json"), input) {
        Ok(policy) => {
            // Understood twice, it is the same.
            assert_eq!(Policy::parse(Path::new("policy.json"), input), Ok(policy));
        }
        Err(refusal) => assert!(!refusal.reason.is_empty()),
    }
}

/// Fit for a terminal and a log: some words, bounded, on one line.
fn said(refusal: &str) {
    assert!(
        !refusal.is_empty() && refusal.len() < 4096,
        "{} bytes",
        refusal.len()
    );
    assert!(!refusal.contains(|c: char| c.is_control()), "{refusal:?}");
}
