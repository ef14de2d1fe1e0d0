//! The order of the crates: an arrow may only point to a lower layer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Findings;
use crate::workspace;

/// From the top down. A crate may depend on crates of lower lines only, not on its neighbours.
const LAYERS: &[&[&str]] = &[
    &["xtask", "coracle-bench", "coracle-fuzz", "coracle-tests"],
    &["coracle"],
    &["coracle-cri"],
    &["coracle-engine"],
    &["coracle-shim", "coracle-task"],
    &["coracle-doctor", "coracle-image"],
    &[
        "coracle-container",
        "coracle-keeper",
        "coracle-manifest",
        "coracle-network",
        "coracle-snapshot",
        "coracle-spec",
    ],
    &["coracle-store", "coracle-systemd", "coracle-testkit"],
    &["coracle-proto"],
    &["coracle-sys"],
    &["coracle-types"],
];

/// What a crate must never know, whatever its layer.
const NEVER: &[(&str, &[&str])] = &[
    ("coracle-container", &["tokio", "coracle-network", "oci-client"]),
    (
        "coracle-engine",
        &["coracle-proto", "tonic", "prost", "rustix", "libc"],
    ),
    ("coracle-image", &["coracle-container"]),
    ("coracle-keeper", &["tokio", "ttrpc"]),
    (
        "coracle-shim",
        &["coracle-network", "coracle-image", "oci-client"],
    ),
    ("coracle-snapshot", &["oci-client", "tokio"]),
    ("coracle-manifest", &["tokio", "rustix", "coracle-proto"]),
    ("coracle-spec", &["tokio"]),
    ("coracle-sys", &["tokio"]),
    ("coracle-systemd", &["oci-spec", "rustix", "libc"]),
    ("coracle-types", &["tokio"]),
    // The tests' side drives the program from outside and builds without libseccomp.
    (
        "coracle-tests",
        &["coracle-engine", "coracle-container", "libseccomp"],
    ),
    (
        "coracle-testkit",
        &["coracle-engine", "coracle-container", "libseccomp"],
    ),
    ("xtask", &["coracle-engine", "coracle-container", "libseccomp"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build` or nothing.
    kind: Option<String>,
}

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(workspace())
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata says something else than JSON")?;
    judge(&metadata, findings);
    Ok(())
}

fn judge(metadata: &Metadata, findings: &mut Findings) {
    for package in &metadata.packages {
        let place = Path::new(&package.manifest_path);
        let place = place.strip_prefix(workspace()).unwrap_or(place);
        let Some(from) = layer(&package.name) else {
            findings.add(
                place,
                0,
                format!(
                    "crate {} is in no layer of xtask/src/tidy/layers.rs",
                    package.name
                ),
            );
            continue;
        };
        for dependency in &package.dependencies {
            // Tests of any crate may stand on the testkit, and on a neighbour: a service is tested by its client.
            let test_only = dependency.kind.as_deref() == Some("dev");
            let to = layer(&dependency.name);
            let in_tests = test_only && (dependency.name == "coracle-testkit" || to == Some(from));
            if to.is_some_and(|to| to <= from) && !in_tests {
                findings.add(
                    place,
                    0,
                    format!(
                        "{} depends on {}, which does not lie below it",
                        package.name, dependency.name
                    ),
                );
            }
            let never = NEVER
                .iter()
                .find(|(name, _)| *name == package.name)
                .map_or(&[][..], |(_, never)| never);
            if never.contains(&dependency.name.as_str()) && !test_only {
                findings.add(
                    place,
                    0,
                    format!("{} must never know {}", package.name, dependency.name),
                );
            }
        }
    }
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, dependency: &str, kind: Option<&str>) -> Vec<String> {
        let dependency = Dependency {
            name: dependency.to_owned(),
            kind: kind.map(str::to_owned),
        };
        let package = Package {
            name: name.to_owned(),
            manifest_path: "Cargo.toml".to_owned(),
            dependencies: vec![dependency],
        };
        let mut findings = Findings::default();
        judge(
            &Metadata {
                packages: vec![package],
            },
            &mut findings,
        );
        findings.0
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        assert!(judged("coracle-engine", "coracle-image", None).is_empty());
        assert_eq!(judged("coracle-image", "coracle-engine", None).len(), 1);
        assert_eq!(
            judged("coracle-network", "coracle-spec", Some("build")).len(),
            1,
            "neighbours"
        );
        assert!(judged("coracle-sys", "coracle-testkit", Some("dev")).is_empty());
        assert!(
            judged("coracle-shim", "coracle-task", Some("dev")).is_empty(),
            "tested by its client"
        );
        assert_eq!(judged("coracle-sys", "coracle-testkit", None).len(), 1);
        assert_eq!(judged("coracle-new", "serde", None).len(), 1, "in no layer");
    }

    #[test]
    fn what_a_crate_must_never_know_is_found() {
        assert_eq!(judged("coracle-keeper", "tokio", None).len(), 1);
        assert!(judged("coracle-keeper", "tokio", Some("dev")).is_empty());
    }
}
