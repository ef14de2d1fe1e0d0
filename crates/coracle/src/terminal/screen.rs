//! Where results go: a form, a width, whether colour is shown, and what time it is.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use anstyle::Style;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::clock::Clock;
use super::layout::{GAP, Layout, fit, lay_out};
use super::listing::{Cell, Column, Cut, Listing, Row};
use super::tone::{Tone, clean, clean_json};
use super::trouble::{Status, Trouble};
use super::yaml;
use crate::cli::{Global, Output};

/// Narrower than this nothing is laid out.
const NARROWEST: usize = 10;

/// The one who asked, and how they want to be answered.
pub(crate) struct Screen {
    /// The form of results.
    pub(crate) output: Output,
    /// Every value with its name, nothing drawn.
    pub(crate) plain: bool,
    /// Columns of the terminal; `None` in a pipe.
    pub(crate) width: Option<usize>,
    /// Whether colour is shown.
    pub(crate) colour: bool,
    /// For ages.
    pub(crate) clock: Clock,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Screen {
    /// Standard output.
    pub(crate) fn standard(global: &Global) -> Self {
        let stdout = io::stdout();
        let choice = anstream::AutoStream::choice(&stdout);
        Self {
            output: global.output,
            plain: global.plain,
            width: width(stdout.is_terminal()),
            colour: !global.plain && choice != anstream::ColorChoice::Never,
            clock: Clock::Running,
            out: Mutex::new(Box::new(stdout)),
        }
    }

    /// Any writer, for tests.
    #[cfg(test)]
    pub(crate) fn to(out: Box<dyn Write + Send>, output: Output, width: Option<usize>, clock: Clock) -> Self {
        Self {
            output,
            plain: false,
            width,
            colour: false,
            clock,
            out: Mutex::new(out),
        }
    }

    /// Standard output again, as wide as it is now.
    pub(crate) fn measured(&self) -> Self {
        Self {
            output: self.output,
            plain: self.plain,
            width: width(true),
            colour: self.colour,
            clock: self.clock,
            out: Mutex::new(Box::new(io::stdout())),
        }
    }

    /// A line of parts, as many as fit whole; the first is cut when not even that one fits.
    pub(crate) fn fitting(&self, before: &str, parts: &[String], tone: Tone) -> String {
        let room = self.width.unwrap_or(usize::MAX);
        let mut line = before.to_owned();
        for (place, part) in parts.iter().enumerate() {
            let part = if place > 0 {
                format!("  {part}")
            } else {
                part.clone()
            };
            if place > 0 && line.width() + part.width() > room {
                break;
            }
            line.push_str(&part);
        }
        self.paint(&fit(&line, room, Cut::End), tone)
    }

    /// The text in lines that fit behind `before` columns, broken between words.
    pub(crate) fn wrap(&self, text: &str, before: usize) -> Vec<String> {
        let room = self
            .width
            .map_or(usize::MAX, |width| width.saturating_sub(before).max(NARROWEST));
        let mut lines = Vec::new();
        let mut line = String::new();
        for word in clean(text).split_whitespace() {
            if !line.is_empty() && line.width() + 1 + word.width() > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
        lines
    }

    /// A paragraph, each line of it behind `indent`.
    pub(crate) fn wrapped(&self, text: &str, indent: &str, tone: Tone) -> io::Result<()> {
        for line in self.wrap(text, indent.len()) {
            self.line(format!("{indent}{}", self.paint(&line, tone)))?;
        }
        Ok(())
    }

    /// Whether something that redraws itself may be shown: a terminal that takes colours and a person.
    pub(crate) fn is_live(&self) -> bool {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        self.output == Output::Table && !self.plain && !dumb && io::stdout().is_terminal()
    }

    /// Writes as it stands.
    pub(crate) fn raw(&self, text: &str) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// A line of the result.
    pub(crate) fn line(&self, words: impl std::fmt::Display) -> io::Result<()> {
        self.raw(&format!("{words}\n"))
    }

    /// The text in a tone, where colour is shown.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        let style = if self.colour { tone.style() } else { Style::new() };
        if style.is_plain() || text.is_empty() {
            text.to_owned()
        } else {
            format!("{style}{text}{style:#}")
        }
    }

    /// A value for programs, in JSON or, when YAML is asked for, in that.
    pub(crate) fn value(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let value = serde_json::to_value(value)?;
        if self.output == Output::Yaml {
            self.raw(&yaml::document(&value))?;
        } else {
            self.line(clean_json(&serde_json::to_string_pretty(&value)?))?;
        }
        Ok(())
    }

    /// A value of a stream that goes on: a line of JSON, or a document of YAML.
    pub(crate) fn item(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let value = serde_json::to_value(value)?;
        if self.output == Output::Yaml {
            self.raw(&format!("---\n{}", yaml::document(&value)))?;
        } else {
            self.line(clean_json(&serde_json::to_string(&value)?))?;
        }
        Ok(())
    }

    /// For results that have a form of their own: refuses one that was asked for and is not among the `others`.
    pub(crate) fn has_one_form(&self, what: &str, others: &[Output]) -> Result<(), Trouble> {
        let own = [Output::Table, Output::Wide];
        if own.contains(&self.output) || others.contains(&self.output) {
            return Ok(());
        }
        Err(Trouble::new(format!("{what}: it has no other form"))
            .next("leave --output away")
            .status(Status::Usage))
    }

    /// What was done to what, as `stop` and `rm` tell it: the name, or for programs `{"done": name}`.
    pub(crate) fn done(&self, done: &str, name: &str) -> anyhow::Result<()> {
        match self.output {
            Output::Json | Output::Yaml => self.item(&serde_json::json!({ done: name })),
            Output::Table | Output::Wide | Output::Name => Ok(self.line(clean(name))?),
        }
    }

    /// A list in the form asked for.
    pub(crate) fn listing(&self, listing: &Listing) -> anyhow::Result<()> {
        match self.output {
            Output::Json | Output::Yaml => {
                let values: Vec<_> = listing.rows.iter().map(|row| &row.value).collect();
                self.value(&values)?;
            }
            Output::Name => {
                for row in &listing.rows {
                    self.line(clean(&row.name))?;
                }
            }
            Output::Table | Output::Wide if listing.rows.is_empty() => {
                // Beside the result: a program that counts lines counts none.
                super::remark(&listing.nothing);
            }
            Output::Table | Output::Wide => {
                let table = Table::of(self, listing);
                self.raw(&table.text(self, &listing.rows))?;
                table.tell_left_out(self, listing);
            }
        }
        Ok(())
    }

    /// The list as a table, whatever form was asked for.
    pub(crate) fn table_text(&self, listing: &Listing) -> String {
        Table::of(self, listing).text(self, &listing.rows)
    }
}

/// A table whose widths are settled; rows may come later.
pub(crate) struct Table {
    columns: Vec<Column>,
    /// `None`: not even the least fits, so every value stands on a line with its name.
    layout: Option<Layout>,
    /// There is room for anything.
    whole: bool,
}

impl Table {
    /// Widths for what is listed now.
    pub(crate) fn of(screen: &Screen, listing: &Listing) -> Self {
        let wide = screen.output == Output::Wide;
        let columns: Vec<_> = listing
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| wide || !column.wide)
            .map(|(index, column)| {
                let cells = listing.rows.iter().filter_map(|row| row.cells.get(index));
                let widest = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
                (index, *column, widest.max(column.heading.width()))
            })
            .collect();
        let room = if wide { None } else { screen.width };
        let layout = if screen.plain {
            None
        } else {
            lay_out(&columns, room)
        };
        Self {
            columns: listing.columns.clone(),
            layout,
            whole: room.is_none(),
        }
    }

    /// Heading and rows.
    pub(crate) fn text(&self, screen: &Screen, rows: &[Row]) -> String {
        let mut text = self.heading(screen);
        for row in rows {
            text.push_str(&self.row(screen, &row.cells));
        }
        text
    }

    /// The heading's line; nothing where each value has its name beside it.
    pub(crate) fn heading(&self, screen: &Screen) -> String {
        if self.layout.is_none() {
            return String::new();
        }
        let cells: Vec<_> = self
            .columns
            .iter()
            .map(|column| Cell::toned(column.heading, Tone::Heading))
            .collect();
        self.row(screen, &cells)
    }

    /// A row's line, or lines.
    pub(crate) fn row(&self, screen: &Screen, cells: &[Cell]) -> String {
        let Some(layout) = &self.layout else {
            return self.record(screen, cells);
        };
        let mut line = String::new();
        let mut pad = 0;
        for (place, (index, width)) in layout.shown.iter().enumerate() {
            let (Some(cell), Some(column)) = (cells.get(*index), self.columns.get(*index)) else {
                continue;
            };
            // Of rows that come later one may be wider than all before.
            let text = if self.whole {
                cell.text.clone()
            } else {
                fit(&cell.text, *width, column.cut)
            };
            let rest = width.saturating_sub(text.width());
            pad += if place > 0 { GAP } else { 0 };
            // Blanks are written before a text only: no line ends with them.
            if text.is_empty() {
                pad += width;
                continue;
            }
            pad += if column.right { rest } else { 0 };
            line.extend(std::iter::repeat_n(' ', pad));
            line.push_str(&screen.paint(&text, cell.tone));
            pad = if column.right { 0 } else { rest };
        }
        line.push('\n');
        line
    }

    /// Each value with its name: on one line for those who listen, below each other where room is short.
    fn record(&self, screen: &Screen, cells: &[Cell]) -> String {
        let wide = screen.output == Output::Wide;
        let named: Vec<_> = self
            .columns
            .iter()
            .zip(cells)
            .filter(|(column, cell)| (wide || !column.wide) && !cell.text.trim().is_empty())
            // A meter ends with blanks, to be as wide as others in its column.
            .map(|(column, cell)| format!("{}: {}", column.heading.to_lowercase(), cell.text.trim_end()))
            .collect();
        if screen.plain {
            format!("{}\n", named.join("; "))
        } else {
            format!("{}\n\n", named.join("\n"))
        }
    }

    /// Says what a narrow terminal did without.
    fn tell_left_out(&self, screen: &Screen, listing: &Listing) {
        let left_out = self.layout.as_ref().map_or(&[][..], |layout| &layout.left_out);
        if left_out.is_empty() || screen.width.is_none() || !io::stderr().is_terminal() {
            return;
        }
        let names: Vec<_> = left_out
            .iter()
            .filter_map(|index| listing.columns.get(*index))
            .map(|column| column.heading)
            .collect();
        super::remark(format!("no room for: {} (-o wide)", names.join(", ")));
    }
}

/// Columns to fill: the variable COLUMNS, else the terminal's; none in a pipe.
fn width(terminal: bool) -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let seen = || {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    told.or_else(|| terminal.then(seen).flatten())
        .map(|width: usize| width.max(NARROWEST))
}
