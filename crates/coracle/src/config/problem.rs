//! What is wrong with a configuration: where, which key, which value, and how to mend it.

use std::fmt;
use std::path::PathBuf;

use super::keys::{KEYS, Key};

/// How alike two names must be for one to be offered for the other (1 is equal).
const ALIKE: f64 = 0.7;

/// Where a value comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// A file, and the line in it where one is to blame.
    File(PathBuf, Option<usize>),
    /// A variable of the environment.
    Environment(String),
    /// An option of the command line.
    Flag(&'static str),
    /// Set by a command while the daemon runs, until it reads its configuration again.
    Command(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Command(name) => write!(f, "command {name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) origin: Origin,
    /// Key, value and remedy, as far as they are known.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(origin: &Origin, message: impl Into<String>) -> Self {
        Self {
            origin: origin.clone(),
            message: message.into(),
        }
    }

    /// A key that nobody knows, with the nearest that somebody does.
    pub(super) fn unknown(origin: &Origin, key: &str) -> Self {
        let message = match nearest(key) {
            Some(known) => format!("{key}: unknown key: did you mean {}?", known.name),
            None => format!("{key}: unknown key: `coracle config default` shows all there are"),
        };
        Self::new(origin, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// A configuration that cannot be used, with all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejected(pub(crate) Vec<Problem>);

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "the configuration cannot be used: {one}"),
            many => {
                write!(f, "the configuration cannot be used: {} problems", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n{problem}"))
            }
        }
    }
}

impl std::error::Error for Rejected {}

/// The known key that was most likely meant.
fn nearest(wrong: &str) -> Option<&'static Key> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    // The right name in the wrong section.
    let misplaced = KEYS.iter().find(|key| last(key.name) == last(wrong));
    misplaced.or_else(|| {
        let likeness = |key: &Key| {
            let section = |name: &str| name.rsplit_once('.').map(|(section, _)| section.to_owned());
            let whole = strsim::normalized_damerau_levenshtein(key.name, wrong);
            // Within a section that is right, its name counts for nothing.
            match (section(key.name) == section(wrong), last(key.name), last(wrong)) {
                (true, Some(known), Some(wrong)) => strsim::normalized_damerau_levenshtein(&known, &wrong),
                _ => whole,
            }
        };
        KEYS.iter()
            .map(|key| (likeness(key), key))
            .filter(|(alike, _)| *alike >= ALIKE)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, key)| key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_met_with_the_nearest_name() {
        let meant = |wrong: &str| nearest(wrong).map(|key| key.name);
        assert_eq!(meant("rooot"), Some("root"));
        assert_eq!(
            meant("registry.max_concurent_downloads"),
            Some("registry.max_concurrent_downloads")
        );
        assert_eq!(meant("registy.config_dirs"), Some("registry.config_dirs"));
        assert_eq!(meant("log.levl"), Some("log.level"));
        assert_eq!(meant("level"), Some("log.level"));
        assert_eq!(meant("network.sock"), None);
        assert_eq!(meant("sandbox_image"), None);
    }
}
