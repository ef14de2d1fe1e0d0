//! An image's configuration (OCI image specification, config.md) and the builder that ends in it.

use serde_json::{Map, Value, json};

use super::{Blob, Compression, Image, digest};

/// Builds an image from layers and settings.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<Blob>,
    diff_ids: Vec<String>,
    settings: Map<String, Value>,
    architecture: String,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// No layers, no settings, this machine's architecture.
    #[must_use]
    pub fn new() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            layers: Vec::new(),
            diff_ids: Vec::new(),
            settings: Map::new(),
            architecture: architecture.to_owned(),
        }
    }

    /// Adds a layer on top: the bytes of a tar file, compressed as asked.
    #[must_use]
    pub fn layer(self, tar: Vec<u8>, compression: Compression) -> Self {
        let diff_id = digest(&tar).to_string();
        self.raw_layer(compression.blob(tar), diff_id)
    }

    /// Adds a layer whose blob and diff ID need not fit each other.
    #[must_use]
    pub fn raw_layer(mut self, blob: Blob, diff_id: impl Into<String>) -> Self {
        self.layers.push(blob);
        self.diff_ids.push(diff_id.into());
        self
    }

    /// Sets any field of the configuration's `config`, as spelled there.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a variable, `NAME=value`.
    #[must_use]
    pub fn env(mut self, variable: &str) -> Self {
        let list = self.settings.entry("Env").or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(variable.into());
        }
        self
    }

    /// What always runs.
    #[must_use]
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.setting("Entrypoint", words.to_vec())
    }

    /// What runs, or the entrypoint's arguments, unless a container says otherwise.
    #[must_use]
    pub fn cmd(self, words: &[&str]) -> Self {
        self.setting("Cmd", words.to_vec())
    }

    /// User and group as the image wants them: `1002`, `www-data`, `1003:1004`.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.setting("User", user)
    }

    /// Declares a volume.
    #[must_use]
    pub fn volume(mut self, path: &str) -> Self {
        let volumes = self.settings.entry("Volumes").or_insert_with(|| json!({}));
        if let Value::Object(volumes) = volumes {
            volumes.insert(path.to_owned(), json!({}));
        }
        self
    }

    /// For another machine than this.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// The image.
    #[must_use]
    pub fn build(self) -> Image {
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.settings,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
            "history": [],
        });
        let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string());
        Image::new(self.layers, config)
    }
}
