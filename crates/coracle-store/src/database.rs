//! The durable tables: typed, JSON inside redb, committed in groups by one thread.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use backon::{BlockingRetryable as _, ConstantBuilder};
use coracle_types::{Kind, Kinded};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::health::{Health, Trouble};
use crate::reserve::Reserve;

/// Version of the tables' meaning; a database of a newer one is refused.
const SCHEMA: &str = "1";
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
/// redb's page cache: all values are read once at start, so little is worth keeping.
const CACHE_BYTES: usize = 1 << 20;
/// How many changes one commit takes at most.
const GROUP: usize = 1024;
/// How long after a failed commit it is tried again when nothing new arrives.
const RETRY: Duration = Duration::from_secs(1);
/// How long a file is waited for that another process holds: two seconds in all.
const HELD_DELAY: Duration = Duration::from_millis(10);
const HELD_TIMES: usize = 200;

/// The database cannot be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Opening or creating the file failed.
    #[error("open the database {path}: {reason}")]
    Open {
        /// The database's file.
        path: PathBuf,
        /// What the file system or redb said.
        reason: String,
    },
    /// Another process holds the file.
    #[error(
        "the database {path} is in use: another daemon runs on this directory; stop it or give this one another root"
    )]
    InUse {
        /// The database's file.
        path: PathBuf,
    },
    /// A newer program wrote this file.
    #[error(
        "the database {path} has schema {found}, this program knows {SCHEMA}: run the newer program again"
    )]
    Newer {
        /// The database's file.
        path: PathBuf,
        /// Its schema.
        found: String,
    },
    /// A table cannot be read.
    #[error("read table {table}: {reason}")]
    Read {
        /// The table's name.
        table: &'static str,
        /// What redb said.
        reason: String,
    },
    /// A commit failed; what it held is tried again with the next one.
    #[error("write the database: {reason}")]
    Commit {
        /// What redb said.
        reason: String,
        /// Whether the disk is full.
        full: bool,
    },
    /// A value cannot be turned into JSON.
    #[error("encode a value of table {table}: {reason}")]
    Encode {
        /// The table's name.
        table: &'static str,
        /// What serde said.
        reason: String,
    },
    /// The writing thread has ended.
    #[error("the database is closed")]
    Closed,
}

impl Kinded for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Commit { full: true, .. } => Kind::ResourceExhausted,
            Self::InUse { .. } | Self::Newer { .. } => Kind::FailedPrecondition,
            _ => Kind::Internal,
        }
    }
}

struct Change {
    table: &'static str,
    key: String,
    /// `None` removes.
    value: Option<Vec<u8>>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A change on its way to the disk; dropping it does not undo the change.
#[derive(Debug)]
#[must_use = "wait for it, or drop it on purpose with `.later()`"]
pub struct Ticket(oneshot::Receiver<Result<(), StoreError>>);

impl Ticket {
    /// Resolves when the change would survive power loss.
    ///
    /// # Errors
    /// When the commit failed; it is tried again with the next one all the same.
    pub async fn durable(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }

    /// As [`Ticket::durable`], blocking the thread (never call it in an async task).
    ///
    /// # Errors
    /// As [`Ticket::durable`].
    pub fn wait(self) -> Result<(), StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Lets the change become durable in its own time.
    pub fn later(self) {}
}

/// The daemon's database.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    health: Arc<Health>,
    /// Where the damaged one lies that this one was begun in place of.
    replaced: Option<PathBuf>,
    database: Arc<Open>,
    changes: Mutex<Option<mpsc::Sender<Change>>>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Drop for Shared {
    /// What is queued is committed before the file closes.
    fn drop(&mut self) {
        drop(self.changes.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

impl Store {
    /// Opens the database at `path` or makes it, with its directory (0700).
    ///
    /// # Errors
    /// When another process has it open, when a newer program wrote it, or when the file system
    /// refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |reason: String| StoreError::Open {
            path: path.to_owned(),
            reason,
        };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|error| open(error.to_string()))?;
        }
        let (database, replaced) = match create(path) {
            Ok((database, replaced)) => (Arc::new(database), replaced),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(StoreError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(open(error.to_string())),
        };
        check_schema(&database, path)?;
        let database = Arc::new(Open {
            path: path.to_owned(),
            database: Mutex::new(Some(database)),
        });
        let (sender, receiver) = mpsc::channel();
        let written = Arc::clone(&database);
        let reserve = Reserve::of(path);
        let health = Arc::new(Health::default());
        let noted = Arc::clone(&health);
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_changes(&written, &reserve, &noted, &receiver))
            .map_err(|error| open(error.to_string()))?;
        Ok(Self(Arc::new(Shared {
            health,
            replaced,
            database,
            changes: Mutex::new(Some(sender)),
            writer: Mutex::new(Some(writer)),
        })))
    }

    /// Where the damaged database was put that this one was begun in place of, in this run; whoever keeps
    /// something that only the tables account for must then not take it for nobody's.
    #[must_use]
    pub fn replaced(&self) -> Option<&Path> {
        self.0.replaced.as_deref()
    }

    /// Why the last commit failed, if it did; it is tried again until it succeeds.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.health.trouble()
    }

    /// The table of that name; a name stands for one type of value for ever.
    #[must_use]
    pub fn table<V>(&self, name: &'static str) -> Table<V> {
        Table {
            store: self.clone(),
            name,
            value: PhantomData,
        }
    }

    fn change(&self, table: &'static str, key: &str, value: Option<Vec<u8>>) -> Ticket {
        let (done, ticket) = oneshot::channel();
        let change = Change {
            table,
            key: key.to_owned(),
            value,
            done,
        };
        let changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changes) = changes.as_ref() {
            // A writer that has ended drops the change with its sender: the ticket says Closed.
            let _ = changes.send(change);
        }
        Ticket(ticket)
    }
}

/// The database's file, open. redb refuses everything after the first error of the disk, since it does not know
/// any more what was written: whoever opens the file again is told by its content.
struct Open {
    path: PathBuf,
    /// `None` after an error, until somebody needs it.
    database: Mutex<Option<Arc<Database>>>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Result<Arc<Database>, redb::Error> {
        let mut database = self.lock();
        if let Some(database) = &*database {
            return Ok(Arc::clone(database));
        }
        // Never created anew: what is there was whole a moment ago.
        let opened = Database::builder().set_cache_size(CACHE_BYTES).open(&self.path)?;
        tracing::info!(path = %self.path.display(), "the database is open again");
        Ok(Arc::clone(database.insert(Arc::new(opened))))
    }

    fn close(&self) {
        *self.lock() = None;
    }
}

/// A key and its value, or why the value cannot be read.
pub type Entry<V> = (String, Result<V, String>);

/// Values of one type by text keys.
pub struct Table<V> {
    store: Store,
    name: &'static str,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            name: self.name,
            value: PhantomData,
        }
    }
}

impl<V> std::fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.name)
    }
}

impl<V: Serialize + DeserializeOwned> Table<V> {
    /// Queues `value` under `key`. Changes of one store become durable in the order of the calls.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub fn put(&self, key: &str, value: &V) -> Result<Ticket, StoreError> {
        let json = serde_json::to_vec(value).map_err(|error| StoreError::Encode {
            table: self.name,
            reason: error.to_string(),
        })?;
        Ok(self.store.change(self.name, key, Some(json)))
    }

    /// Queues the removal of `key`.
    pub fn remove(&self, key: &str) -> Ticket {
        self.store.change(self.name, key, None)
    }

    /// Every durable value, by key. A value that cannot be read is given as the reason, so that one
    /// damaged record is never in the others' way.
    ///
    /// # Errors
    /// When the table as a whole cannot be read.
    pub fn all(&self) -> Result<Vec<Entry<V>>, StoreError> {
        let failed = |reason: String| StoreError::Read {
            table: self.name,
            reason,
        };
        let database = self
            .store
            .0
            .database
            .get()
            .map_err(|error| failed(error.to_string()))?;
        let read = database.begin_read().map_err(|error| failed(error.to_string()))?;
        let definition = TableDefinition::<&str, &[u8]>::new(self.name);
        let table = match read.open_table(definition) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut values = Vec::new();
        for entry in table.iter().map_err(|error| failed(error.to_string()))? {
            let (key, value) = entry.map_err(|error| failed(error.to_string()))?;
            let value = serde_json::from_slice(value.value()).map_err(|error| error.to_string());
            values.push((key.value().to_owned(), value));
        }
        Ok(values)
    }
}

/// Opens or makes it; a damaged one is put aside, and where is told.
fn create(path: &Path) -> Result<(Database, Option<PathBuf>), redb::DatabaseError> {
    // A process that another thread is just forking holds the file's lock until it executes its program, and a
    // daemon that is going holds it until it is gone.
    let create = || {
        let create = || Database::builder().set_cache_size(CACHE_BYTES).create(path);
        create
            .retry(
                ConstantBuilder::new()
                    .with_delay(HELD_DELAY)
                    .with_max_times(HELD_TIMES),
            )
            .when(|error| matches!(error, redb::DatabaseError::DatabaseAlreadyOpen))
            .call()
    };
    // redb would begin anew in an empty file. Nobody leaves one but a file system that lost the content.
    let empty = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    let damage = if empty {
        "it is empty".to_owned()
    } else {
        match create() {
            Ok(database) => return Ok((database, None)),
            Err(error) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        }
    };
    // A node that starts with what this boot's files still tell is better than one that does not.
    let aside = path.with_extension("redb.damaged");
    tracing::error!(%damage, path = %path.display(), aside = %aside.display(),
        "the database is damaged: it is put aside and a new one begun");
    fs::rename(path, &aside).map_err(redb::StorageError::Io)?;
    create().map(|database| (database, Some(aside)))
}

fn is_damage(error: &redb::DatabaseError) -> bool {
    match error {
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)) => true,
        redb::DatabaseError::Storage(redb::StorageError::Io(io)) => {
            matches!(
                io.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            )
        }
        _ => false,
    }
}

fn check_schema(database: &Database, path: &Path) -> Result<(), StoreError> {
    let open = |reason: String| StoreError::Open {
        path: path.to_owned(),
        reason,
    };
    let write = database.begin_write().map_err(|error| open(error.to_string()))?;
    {
        let mut meta = write.open_table(META).map_err(|error| open(error.to_string()))?;
        let found = meta
            .get("schema")
            .map_err(|error| open(error.to_string()))?
            .map(|value| String::from_utf8_lossy(value.value()).into_owned());
        match found {
            Some(found) if found == SCHEMA => return Ok(()),
            Some(found) => {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found,
                });
            }
            None => meta
                .insert("schema", SCHEMA.as_bytes())
                .map_err(|error| open(error.to_string()))?,
        };
    }
    write.commit().map_err(|error| open(error.to_string()))
}

/// What a failed commit left to do: the last word on each key.
type Backlog = BTreeMap<(&'static str, String), Option<Vec<u8>>>;

fn write_changes(database: &Open, reserve: &Reserve, health: &Health, changes: &mpsc::Receiver<Change>) {
    reserve.keep();
    let mut backlog = Backlog::new();
    loop {
        let first = if backlog.is_empty() {
            match changes.recv() {
                Ok(change) => Some(change),
                Err(mpsc::RecvError) => return,
            }
        } else {
            match changes.recv_timeout(RETRY) {
                Ok(change) => Some(change),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    if let Err(error) = commit(database, &backlog) {
                        tracing::error!(%error, changes = backlog.len(), "the last changes are lost");
                    }
                    return;
                }
            }
        };
        let group = first.into_iter().chain(changes.try_iter()).take(GROUP);
        let mut waiting = Vec::new();
        for change in group {
            backlog.insert((change.table, change.key), change.value);
            waiting.push(change.done);
        }
        let mut outcome = commit(database, &backlog);
        let removes = backlog.values().any(Option::is_none);
        if matches!(outcome, Err(StoreError::Commit { full: true, .. })) && removes && reserve.spend() {
            tracing::warn!("the disk is full: a removal is written into the space that is kept for this");
            outcome = commit(database, &backlog);
        } else if outcome.is_ok() {
            reserve.keep();
        }
        health.note(&outcome);
        match &outcome {
            Ok(()) => backlog.clear(),
            Err(error) => tracing::warn!(%error, changes = backlog.len(), "will be tried again"),
        }
        for done in waiting {
            // Nobody needs to wait for it.
            let _ = done.send(outcome.clone());
        }
    }
}

fn commit(open: &Open, changes: &Backlog) -> Result<(), StoreError> {
    let run = || -> Result<(), redb::Error> {
        let database = open.get()?;
        let write = database.begin_write()?;
        for ((table, key), value) in changes {
            let mut table = write.open_table(TableDefinition::<&str, &[u8]>::new(table))?;
            match value {
                Some(value) => table.insert(key.as_str(), value.as_slice())?,
                None => table.remove(key.as_str())?,
            };
        }
        Ok(write.commit()?)
    };
    run().map_err(|error| {
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            open.close();
        }
        StoreError::Commit {
            full: matches!(&error, redb::Error::Io(io) if Kind::of_exhaustion(io).is_some()),
            reason: error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outlive_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root/db.redb");
        {
            let store = Store::open(&path).unwrap();
            let table = store.table::<Vec<u32>>("numbers");
            table.put("a", &vec![1]).unwrap().later();
            table.put("b", &vec![2, 3]).unwrap().later();
            table.remove("a").wait().unwrap();
        }
        let store = Store::open(&path).unwrap();
        let all = store.table::<Vec<u32>>("numbers").all().unwrap();
        assert_eq!(all, vec![("b".to_owned(), Ok(vec![2, 3]))]);
    }

    #[test]
    fn one_value_that_cannot_be_read_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db.redb")).unwrap();
        store
            .table::<String>("t")
            .put("bad", &"text".to_owned())
            .unwrap()
            .later();
        store.table::<u32>("t").put("good", &7).unwrap().wait().unwrap();
        let all = store.table::<u32>("t").all().unwrap();
        assert!(all[0].1.is_err());
        assert_eq!(all[1], ("good".to_owned(), Ok(7)));
    }

    #[test]
    fn a_second_daemon_on_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.redb");
        let _first = Store::open(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::InUse { .. })));
    }

    #[test]
    fn a_damaged_database_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.redb");
        for damage in [vec![0xa5_u8; 8192], vec![b'x'; 100], Vec::new()] {
            fs::write(&path, &damage).unwrap();
            let store = Store::open(&path).unwrap();
            assert!(store.replaced().is_some());
            store.table::<u32>("t").put("k", &1).unwrap().wait().unwrap();
            assert_eq!(fs::read(path.with_extension("redb.damaged")).unwrap(), damage);
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.redb");
        {
            let store = Store::open(&path).unwrap();
            let write = store.0.database.get().unwrap().begin_write().unwrap();
            write
                .open_table(META)
                .unwrap()
                .insert("schema", "999".as_bytes())
                .unwrap();
            write.commit().unwrap();
        }
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found, .. }) if found == "999"));
    }
}
