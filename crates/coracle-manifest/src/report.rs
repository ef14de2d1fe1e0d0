//! What is wrong with manifests, or not honoured: each with its file, line and path.

use std::cell::RefCell;
use std::fmt;

/// How much a problem weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The pod runs without it; with `--strict` it does not.
    Ignored,
    /// Nothing runs.
    Refused,
}

/// One thing to say about a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub source: String,
    /// Line in it, from 1; 0 where none can be given.
    pub line: usize,
    /// Path of the field from the document's top; empty for the document.
    pub path: String,
    /// How much it weighs.
    pub weight: Weight,
    /// What is so, and what to do.
    pub words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.words)?;
        match self.weight {
            Weight::Ignored => write!(f, "; ignored"),
            Weight::Refused => Ok(()),
        }
    }
}

/// All problems of one file, as they were found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    source: String,
    problems: RefCell<Vec<Problem>>,
}

impl Report {
    pub(crate) fn of(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            problems: RefCell::default(),
        }
    }

    pub(crate) fn add(&self, line: usize, path: &str, weight: Weight, words: impl Into<String>) {
        let problem = Problem {
            source: self.source.clone(),
            line,
            path: path.to_owned(),
            weight,
            words: words.into(),
        };
        let mut problems = self.problems.borrow_mut();
        // A field that several readers look at is named once.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// The problems in the order of the file.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}
