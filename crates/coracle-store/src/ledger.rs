//! A ledger: intents written before a kernel object is made, struck off after it is gone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use coracle_types::{Kind, Kinded};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// More than any pod can own; a larger file is not ours.
const MAX_BYTES: u64 = 4 << 20;

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
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Kind::ResourceExhausted
            }
            _ => Kind::Internal,
        }
    }
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
        let entries = serde_json::from_slice(&text).map_err(|source| LedgerError::Damaged {
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

/// Replaces a file on tmpfs whole: a reader sees the old content or the new, never half. Not durable.
///
/// # Errors
/// As the file system gives them; the old content is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    File::create(&fresh)?.write_all(content)?;
    fs::rename(&fresh, path)
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
    fn an_intent_that_cannot_be_written_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::<String>::open(&dir.path().join("gone/ledger")).unwrap();
        assert!(ledger.record(["x".to_owned()]).is_err());
        assert!(ledger.entries().is_empty());
    }
}
