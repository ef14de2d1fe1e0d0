//! What people see: tables, JSON, colour only where a terminal shows it.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Says on standard error what failed and why, a cause a line.
pub(crate) fn complain(error: &anyhow::Error) {
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    anstream::eprintln!("{red}error{red:#}: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let words = cause.to_string();
        // A cause that its effect quotes is not said twice.
        if !said.contains(&words) {
            anstream::eprintln!("  because: {words}");
        }
        said = words;
    }
}

/// A remark beside the result, on standard error.
pub(crate) fn remark(words: impl Display) {
    let dim = Style::new().dimmed();
    anstream::eprintln!("{dim}{words}{dim:#}");
}

/// A line of the result.
pub(crate) fn line(words: impl Display) {
    anstream::println!("{words}");
}

/// A value as JSON, for programs.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Rows under a heading; wraps to the terminal's width, is never wrapped in a pipe.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if !table.is_tty() {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    for text in table.lines() {
        line(text.trim_end());
    }
}

/// Bytes in the largest unit that leaves a digit before the point.
#[must_use]
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// How long ago, in one unit.
#[must_use]
pub(crate) fn ago(unix_nanos: i64) -> String {
    if unix_nanos <= 0 {
        return "-".to_owned();
    }
    let now = coracle_types::time::UnixNanos::now().0;
    let seconds = (now - unix_nanos).max(0) / 1_000_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
