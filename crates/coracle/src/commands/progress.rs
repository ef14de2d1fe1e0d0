//! A bar a layer while an image is pulled.

use std::collections::HashMap;

use coracle_proto::admin::LayerProgress;
use coracle_proto::admin::layer_progress::Stage;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::Screen;

/// Bars on standard error; a pipe sees nothing of them.
pub(crate) struct PullBars {
    all: MultiProgress,
    layers: HashMap<String, ProgressBar>,
    style: ProgressStyle,
    /// All layers together, once there are several.
    total: Option<ProgressBar>,
    plain: bool,
    /// The registry's name, which is not said of each layer again.
    pub(crate) of: String,
    /// What is done with bytes that go: `pulling`, `pushing`.
    doing: &'static str,
}

impl PullBars {
    /// No bar yet: layers are known when the manifest is. Plain output has a line a layer instead.
    pub(crate) fn new(screen: &Screen) -> Self {
        let target = if screen.plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self::on(target, screen)
    }

    fn on(target: ProgressDrawTarget, screen: &Screen) -> Self {
        // Room for digest and word only, for a bar, too, or also for bytes and speed.
        let template = match (screen.width.unwrap_or(usize::MAX), screen.colour) {
            (..50, _) => "{prefix} {percent:>3}% {msg}",
            (50..92, _) => "{prefix} {bar:16} {percent:>3}% {msg}",
            (_, true) => {
                "{prefix:.dim} {bar:30.cyan/black.bright} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {msg}"
            }
            (_, false) => "{prefix} {bar:30} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {msg}",
        };
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            all: MultiProgress::with_draw_target(target),
            layers: HashMap::new(),
            total: None,
            style: style.progress_chars("━━╌"),
            plain: screen.plain,
            of: String::new(),
            doing: "pulling",
        }
    }

    /// The same for what goes to a registry.
    pub(crate) fn for_pushing(screen: &Screen) -> Self {
        Self {
            doing: "pushing",
            ..Self::new(screen)
        }
    }

    /// Shows how far a layer is.
    pub(crate) fn layer(&mut self, layer: &LayerProgress) {
        let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(layer.size);
            let bar = match &self.total {
                Some(total) => self.all.insert_before(total, bar),
                None => self.all.add(bar),
            };
            let bar = bar.with_style(self.style.clone());
            let digits = layer.digest.strip_prefix("sha256:").unwrap_or(&layer.digest);
            bar.set_prefix(digits.get(..12).unwrap_or(digits).to_owned());
            bar
        });
        bar.set_position(layer.received);
        let word = match layer.stage() {
            Stage::Unspecified | Stage::Waiting => "waiting",
            Stage::Downloading => self.doing,
            Stage::Done => "done",
            Stage::Present => "there already",
        };
        let others = layer
            .hosts
            .iter()
            .filter(|host| !self.of.starts_with(host.as_str()));
        let others: Vec<&str> = others.map(String::as_str).collect();
        let word = if others.is_empty() || self.of.is_empty() {
            word.to_owned()
        } else {
            format!("{word} (from {})", others.join(", "))
        };
        if matches!(layer.stage(), Stage::Done | Stage::Present) {
            bar.set_position(layer.size);
            if !bar.is_finished() {
                if self.plain {
                    crate::terminal::remark(format!("layer {}: {word}", bar.prefix()));
                }
                bar.abandon_with_message(word);
            }
        } else {
            bar.set_message(word);
        }
        self.sum();
    }

    /// The sum of all layers, below them.
    fn sum(&mut self) {
        if self.layers.len() < 2 {
            return;
        }
        let total = self.total.get_or_insert_with(|| {
            let bar = ProgressBar::new(0).with_style(self.style.clone());
            bar.set_prefix(format!("{:<12}", "total"));
            self.all.add(bar)
        });
        let sizes = self.layers.values().filter_map(ProgressBar::length);
        total.set_length(sizes.sum());
        total.set_position(self.layers.values().map(ProgressBar::position).sum());
        let done = self.layers.values().filter(|bar| bar.is_finished()).count();
        total.set_message(format!("{done} of {} layers", self.layers.len()));
    }

    /// Leaves the bars as they are.
    pub(crate) fn finish(&self) {
        for bar in self.layers.values().chain(&self.total) {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;
    use crate::cli::Output;
    use crate::terminal::forms::screen;

    /// What stands on a terminal, and where its cursor is.
    #[derive(Debug, Default)]
    struct Grid {
        lines: Vec<Vec<char>>,
        row: usize,
        column: usize,
    }

    impl Grid {
        fn put(&mut self, character: char, width: usize) {
            match character {
                '\r' => self.column = 0,
                '\n' => (self.row, self.column) = (self.row + 1, 0),
                _ => {
                    // As terminals do: the line is left when the next character comes.
                    if self.column == width {
                        (self.row, self.column) = (self.row + 1, 0);
                    }
                    let lines = self.lines.len().max(self.row + 1);
                    self.lines.resize(lines, Vec::new());
                    let line = &mut self.lines[self.row];
                    line.resize(line.len().max(self.column + 1), ' ');
                    line[self.column] = character;
                    self.column += 1;
                }
            }
        }
    }

    #[derive(Debug, Clone, Default)]
    struct Terminal {
        width: u16,
        grid: Arc<Mutex<Grid>>,
    }

    impl Terminal {
        fn change(&self, change: impl FnOnce(&mut Grid)) -> io::Result<()> {
            change(&mut self.grid.lock().unwrap());
            Ok(())
        }

        fn text(&self) -> String {
            let grid = self.grid.lock().unwrap();
            let lines = grid.lines.iter().map(|line| line.iter().collect::<String>());
            lines.map(|line| format!("{}\n", line.trim_end())).collect()
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            self.width
        }
        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.row = grid.row.saturating_sub(n))
        }
        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.row += n)
        }
        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.column += n)
        }
        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.column = grid.column.saturating_sub(n))
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            let width = usize::from(self.width);
            self.change(|grid| text.chars().for_each(|one| grid.put(one, width)))
        }
        fn clear_line(&self) -> io::Result<()> {
            self.change(|grid| {
                let row = grid.row;
                if let Some(line) = grid.lines.get_mut(row) {
                    line.clear();
                }
                grid.column = 0;
            })
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn layer(digit: &str, stage: Stage, received: u64) -> LayerProgress {
        LayerProgress {
            digest: format!("sha256:{}", digit.repeat(64)),
            size: 8 << 20,
            received,
            stage: stage.into(),
            hosts: Vec::new(),
        }
    }

    #[test]
    fn the_bars_of_a_pull_as_they_are_left() {
        for width in [40, 75, 100] {
            let terminal = Terminal {
                width,
                ..Terminal::default()
            };
            let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
            let (screen, _) = screen(Output::Table, Some(usize::from(width)));
            let mut bars = PullBars::on(target, &screen);
            bars.layer(&layer("a", Stage::Downloading, 3 << 20));
            bars.layer(&layer("b", Stage::Present, 0));
            bars.layer(&layer("a", Stage::Done, 8 << 20));
            bars.finish();
            let text = terminal.text();
            assert_eq!(text.lines().count(), 3, "a bar a line, and their sum: {text}");
            insta::assert_snapshot!(format!("bars_{width}_columns"), without_speed(&text));
        }
    }

    /// How fast it was differs from run to run: number and unit are taken out.
    fn without_speed(text: &str) -> String {
        let line = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let unit = words.iter().position(|word| word.ends_with("/s"));
            let kept = words
                .iter()
                .enumerate()
                .filter(|(place, _)| unit.is_none_or(|unit| *place != unit && place + 1 != unit));
            kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ") + "\n"
        };
        text.lines().map(line).collect()
    }
}
