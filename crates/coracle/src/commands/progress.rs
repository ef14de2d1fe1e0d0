//! A bar a layer while an image is pulled.

use std::collections::HashMap;

use coracle_proto::admin::LayerProgress;
use coracle_proto::admin::layer_progress::Stage;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Bars on standard error; a pipe sees nothing of them.
pub(crate) struct PullBars {
    all: MultiProgress,
    layers: HashMap<String, ProgressBar>,
    style: ProgressStyle,
}

impl PullBars {
    /// No bar yet: layers are known when the manifest is.
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template(
            "{prefix} {bar:30} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {msg}",
        );
        Self {
            all: MultiProgress::new(),
            layers: HashMap::new(),
            style: style.unwrap_or_else(|_| ProgressStyle::default_bar()),
        }
    }

    /// Shows how far a layer is.
    pub(crate) fn layer(&mut self, layer: &LayerProgress) {
        let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
            let bar = self
                .all
                .add(ProgressBar::new(layer.size))
                .with_style(self.style.clone());
            let digits = layer.digest.strip_prefix("sha256:").unwrap_or(&layer.digest);
            bar.set_prefix(digits.get(..12).unwrap_or(digits).to_owned());
            bar
        });
        bar.set_position(layer.received);
        let word = match layer.stage() {
            Stage::Unspecified | Stage::Waiting => "waiting",
            Stage::Downloading => "pulling",
            Stage::Done => "done",
            Stage::Present => "there already",
        };
        if matches!(layer.stage(), Stage::Done | Stage::Present) {
            bar.set_position(layer.size);
            bar.abandon_with_message(word);
        } else {
            bar.set_message(word);
        }
    }

    /// Leaves the bars as they are.
    pub(crate) fn finish(&self) {
        for bar in self.layers.values() {
            bar.abandon();
        }
    }
}
