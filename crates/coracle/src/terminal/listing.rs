//! A list of objects in all the forms in which it can be asked for.

use serde_json::Value;

use super::tone::{Tone, clean};

/// What may be cut off a cell when room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing.
    Never,
    /// Its end.
    End,
    /// Its beginning: of image names the end tells most.
    Begin,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Above it.
    pub(crate) heading: &'static str,
    /// 0 is never left out; the higher, the sooner a narrow terminal does without.
    pub(crate) rank: u8,
    /// Shown by `--output wide` only.
    pub(crate) wide: bool,
    /// Numbers stand right.
    pub(crate) right: bool,
    /// What may be cut.
    pub(crate) cut: Cut,
}

impl Column {
    /// A column that stays.
    pub(crate) const fn new(heading: &'static str) -> Self {
        Self {
            heading,
            rank: 0,
            wide: false,
            right: false,
            cut: Cut::Never,
        }
    }

    /// One that a narrow terminal does without.
    pub(crate) const fn rank(mut self, rank: u8) -> Self {
        self.rank = rank;
        self
    }

    /// One that only `--output wide` shows.
    pub(crate) const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// One of numbers.
    pub(crate) const fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// One whose text may be cut.
    pub(crate) const fn cut(mut self, cut: Cut) -> Self {
        self.cut = cut;
        self
    }
}

/// A text in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What it says.
    pub(crate) text: String,
    /// What it means.
    pub(crate) tone: Tone,
}

impl Cell {
    /// A text with a meaning.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self {
            text: clean(text.as_ref()),
            tone,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// An object of a list.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// A cell a column of its listing.
    pub(crate) cells: Vec<Cell>,
    /// All of it, for programs.
    pub(crate) value: Value,
    /// How another command names it.
    pub(crate) name: String,
    /// What stays the same while it changes.
    pub(crate) key: String,
}

/// Objects of one sort.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// Columns of the table.
    pub(crate) columns: Vec<Column>,
    /// In the order shown.
    pub(crate) rows: Vec<Row>,
    /// What is said to a person when there is none: why, and what to do.
    pub(crate) nothing: String,
}
