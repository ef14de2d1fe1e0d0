//! What a command shows, in every form and on terminals of several widths, for snapshots: at a time that
//! stands still.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::{Clock, Screen};
use crate::cli::Output;

/// Nanoseconds in a second.
pub(crate) const SECOND: i64 = 1_000_000_000;
/// The time at which snapshots are taken.
pub(crate) const NOW: i64 = 1_800_000_000 * SECOND;

/// What was written to it, for those who hold a copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// All of it, with escapes that can be seen.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).replace('\u{1b}', "␛")
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A screen that a test reads.
pub(crate) fn screen(output: Output, width: Option<usize>) -> (Screen, Written) {
    let written = Written::default();
    let screen = Screen::to(Box::new(written.clone()), output, width, Clock::Still(NOW));
    (screen, written)
}

/// What is written to a screen of 80 columns without colour.
pub(crate) fn shown(show: impl Fn(&Screen)) -> String {
    let (screen, written) = screen(Output::Table, Some(80));
    show(&screen);
    written.text()
}

/// What is shown, one form below the other. Without colour (as with NO_COLOR) no escape may be in it, and no
/// line may be wider than its terminal.
pub(crate) fn forms(show: impl Fn(&Screen) -> anyhow::Result<()>) -> String {
    all(show, true)
}

/// The same of what is never cut, since programs take it, or people copy it.
pub(crate) fn uncut_forms(show: impl Fn(&Screen) -> anyhow::Result<()>) -> String {
    all(show, false)
}

fn all(show: impl Fn(&Screen) -> anyhow::Result<()>, fits: bool) -> String {
    let mut all = String::new();
    let mut one = |title: &str, output: Output, width: Option<usize>, colour: bool, plain: bool| {
        let (mut screen, written) = screen(output, width);
        (screen.colour, screen.plain) = (colour, plain);
        show(&screen).unwrap();
        let text = written.text();
        assert!(colour || !text.contains('␛'), "{title}: an escape: {text}");
        let laid_out = fits && output == Output::Table && !colour && !plain;
        for line in text.lines().filter(|_| laid_out) {
            let wide = line.chars().count();
            // Below the least width a value stands beside its name, whole: a cut id would name nothing. Nor is
            // a word broken that somebody may copy.
            let one_word = !line.trim().contains(' ');
            assert!(
                width.is_none_or(|width| wide <= width || width < 20) || one_word,
                "{title}: {wide} columns: {line}"
            );
            assert_eq!(line, line.trim_end(), "{title}");
        }
        all.push_str(&format!("== {title}\n{text}\n"));
    };
    one("table, pipe", Output::Table, None, false, false);
    for width in [12, 40, 80, 120] {
        one(
            &format!("table, {width} columns"),
            Output::Table,
            Some(width),
            false,
            false,
        );
    }
    one("table, 80 columns, colour", Output::Table, Some(80), true, false);
    one("table, plain", Output::Table, Some(80), false, true);
    one("wide", Output::Wide, Some(40), false, false);
    one("name", Output::Name, None, false, false);
    one("yaml", Output::Yaml, None, false, false);
    one("json", Output::Json, None, false, false);
    all
}
