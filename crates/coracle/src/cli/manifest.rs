//! What `run` takes when it is given manifests.

use std::path::{Path, PathBuf};

use clap::Args;

/// Manifests to run.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ManifestArgs {
    /// Kubernetes manifest with pods to run, whatever its name; `-` is standard input; may be given several times
    #[arg(long = "file", short = 'f', value_name = "MANIFEST")]
    pub(crate) files: Vec<String>,
    /// File with ConfigMaps and Secrets that the manifests refer to; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) configmap: Vec<PathBuf>,
    /// Run nothing when a manifest has a field that is not honoured
    #[arg(long)]
    pub(crate) strict: bool,
    /// Only say what a manifest has that is wrong or not honoured
    #[arg(long)]
    pub(crate) check: bool,
    /// Remove pods of the same names first
    #[arg(long)]
    pub(crate) replace: bool,
    /// Watch pods for `--detach`; what is said goes to this file
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) watch: Option<PathBuf>,
}

/// Whether an argument of `run` is a manifest: an image's reference begins otherwise and ends otherwise.
pub(crate) fn is_manifest(argument: &str) -> bool {
    let path = Path::new(argument);
    let ends_so = path
        .extension()
        .is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
    // No image's name begins so.
    argument == "-" || ends_so || argument.starts_with(['/', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_manifests_are_told_apart() {
        for manifest in ["-", "pod.yaml", "dir/pod.yml", "/etc/hostname", "pod.json"] {
            assert!(is_manifest(manifest), "{manifest}");
        }
        for image in [
            "busybox",
            "registry.example/app:1.2",
            "app@sha256:00",
            "localhost/yaml",
        ] {
            assert!(!is_manifest(image), "{image}");
        }
    }
}
