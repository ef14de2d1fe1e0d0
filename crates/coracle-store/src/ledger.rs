//! A ledger: intents written before a kernel object is made, struck off after it is gone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use coracle_types::format::{Format, Newer};
use coracle_types::{Kind, Kinded};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// More than any pod can own; a larger file is not ours.
const MAX_BYTES: u64 = 4 << 20;
/// The format of ledgers. The first one is a bare list of entries; what says its number is an object, with the
/// list as `entries`. Ledgers are written as lists as long as that is the newest format: programs that know no
/// other can be gone back to.
const FORMAT: u32 = 1;
/// What tmpfs gives a file at a time.
const PAGE: u64 = 4096;

/// A ledger that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read.
    #[error("read the ledger {path}")]
    Read {
        /// The ledger's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be replaced; the object must then not be made.
    #[error("write the ledger {path}")]
    Write {
        /// The ledger's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a newer program's: what that one made, this one would not take away.
    #[error("the ledger {path}: {newer}")]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// What it says.
        newer: Newer,
    },
    /// The content is not a ledger.
    #[error("the ledger {path} is damaged")]
    Damaged {
        /// The ledger's file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
}

impl Kinded for LedgerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. }
                if Kind::of_exhaustion(source).is_some() =>
            {
                Kind::ResourceExhausted
            }
            Self::Newer { .. } => Kind::FailedPrecondition,
            _ => Kind::Internal,
        }
    }
}

/// A ledger's file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content<T> {
    List(Vec<T>),
    Said {
        #[serde(rename = "format")]
        _format: Format<FORMAT>,
        entries: Vec<T>,
    },
}

/// The objects one owner has made or is about to make, oldest first.
#[derive(Debug)]
pub struct Ledger<T> {
    path: PathBuf,
    entries: Vec<T>,
}

impl<T: Serialize + DeserializeOwned + Clone + PartialEq> Ledger<T> {
    /// The ledger at `path`; empty when there is no file yet.
    ///
    /// # Errors
    /// When the file exists but cannot be read or is no ledger.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let read = |source| LedgerError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(MAX_BYTES).read_to_end(&mut text).map_err(read)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    path: path.to_owned(),
                    entries: Vec::new(),
                });
            }
            Err(error) => return Err(read(error)),
        };
        Newer::check(&text, FORMAT).map_err(|newer| LedgerError::Newer {
            path: path.to_owned(),
            newer,
        })?;
        let (Content::List(entries) | Content::Said { entries, .. }) = serde_json::from_slice(&text)
            .map_err(|source| LedgerError::Damaged {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[T] {
        &self.entries
    }

    /// Notes intents, before the objects are made. What is noted already is not noted twice.
    ///
    /// # Errors
    /// When the file cannot be replaced; the entries are then not in the ledger either.
    pub fn record(&mut self, intents: impl IntoIterator<Item = T>) -> Result<(), LedgerError> {
        let before = self.entries.len();
        for intent in intents {
            if !self.entries.contains(&intent) {
                self.entries.push(intent);
            }
        }
        if self.entries.len() == before {
            return Ok(());
        }
        self.write().inspect_err(|_| self.entries.truncate(before))
    }

    /// Strikes off what is gone, after its removal.
    ///
    /// # Errors
    /// When the file cannot be replaced; the next reader then finds objects that are gone, which
    /// removal takes for removed.
    pub fn strike(&mut self, gone: impl Fn(&T) -> bool) -> Result<(), LedgerError> {
        let before = self.entries.len();
        self.entries.retain(|entry| !gone(entry));
        if self.entries.len() == before {
            Ok(())
        } else {
            self.write()
        }
    }

    fn write(&self) -> Result<(), LedgerError> {
        let write = |source| LedgerError::Write {
            path: self.path.clone(),
            source,
        };
        let text = serde_json::to_vec(&self.entries).map_err(|error| write(error.into()))?;
        replace(&self.path, &text).map_err(write)
    }
}

/// Replaces a JSON file on tmpfs whole: a reader sees the old content or the new, never half. Not durable.
///
/// On a file system that is full the old file's own pages are written, as long as the content fits into
/// them: what says that something is gone must be writable when nothing else is.
///
/// # Errors
/// As the file system gives them; the old content is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match write_fresh(&fresh, content) {
        Ok(()) => fs::rename(&fresh, path),
        Err(error) => {
            // Half a file would take the space that others need.
            let _ = fs::remove_file(&fresh);
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    overwrite(path, content).map_err(|_| error)
                }
                _ => Err(error),
            }
        }
    }
}

fn write_fresh(fresh: &Path, content: &[u8]) -> io::Result<()> {
    File::create(fresh)?.write_all(content)
}

/// Writes over the old content in one call, padded with blanks, which JSON allows: no reader sees a mixture
/// of both that is longer than either.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let old = file.metadata()?.len();
    let new = content.len() as u64;
    if old == 0 || new > old.next_multiple_of(PAGE) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut padded = content.to_vec();
    padded.resize(usize::try_from(old.max(new)).unwrap_or(content.len()), b' ');
    let written = file.write_at(&padded, 0)?;
    if written == padded.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_on_file_before_record_returns_and_off_it_after_strike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut ledger = Ledger::<String>::open(&path).unwrap();
        ledger
            .record(["veth a".to_owned(), "netns a".to_owned(), "veth a".to_owned()])
            .unwrap();
        assert_eq!(
            Ledger::<String>::open(&path).unwrap().entries(),
            ["veth a", "netns a"]
        );
        ledger.strike(|entry| entry == "veth a").unwrap();
        assert_eq!(Ledger::<String>::open(&path).unwrap().entries(), ["netns a"]);
    }

    #[test]
    fn a_ledger_that_says_its_format_is_read_unless_it_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        fs::write(&path, r#"{"format":1,"entries":["veth a"]}"#).unwrap();
        assert_eq!(Ledger::<String>::open(&path).unwrap().entries(), ["veth a"]);
        fs::write(&path, r#"{"format":2,"entries":[{"veth":"a"}]}"#).unwrap();
        let error = Ledger::<String>::open(&path).unwrap_err();
        assert!(matches!(error, LedgerError::Newer { .. }));
        let words = error.to_string();
        assert!(words.contains("format 2") && words.contains("ledger"), "{words}");
    }

    #[test]
    fn a_damaged_ledger_is_an_error_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        fs::write(&path, "[\"half").unwrap();
        assert!(matches!(
            Ledger::<String>::open(&path),
            Err(LedgerError::Damaged { .. })
        ));
    }

    #[test]
    fn a_full_file_system_does_not_keep_a_ledger_from_shrinking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        fs::write(&path, r#"["veth a","netns a"]"#).unwrap();
        overwrite(&path, br#"["netns a"]"#).unwrap();
        assert_eq!(Ledger::<String>::open(&path).unwrap().entries(), ["netns a"]);
        // What would need another page is refused, and the old content stays.
        assert!(overwrite(&path, &vec![b' '; 5000]).is_err());
        assert_eq!(Ledger::<String>::open(&path).unwrap().entries(), ["netns a"]);
    }

    #[test]
    fn an_intent_that_cannot_be_written_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::<String>::open(&dir.path().join("gone/ledger")).unwrap();
        assert!(ledger.record(["x".to_owned()]).is_err());
        assert!(ledger.entries().is_empty());
    }
}
