//! The database of what must outlive a boot, and the ledger of what must not.
//!
//! Owns three kinds of file and knows the meaning of no content:
//!
//! - `db.redb`, one per daemon: typed tables of JSON values ([`Store`], [`Table`]). Written by one
//!   thread that gathers what is waiting into one durable commit, so that a pod's start never waits
//!   for the disk unless it asks to. redb locks the file: a second daemon on the same directory is
//!   refused. A commit survives power loss; what was only queued does not.
//! - `db.reserve`: half a megabyte that is given up when a removal cannot be written for want of space.
//! - ledgers on tmpfs ([`Ledger`]), a file a pod: the kernel objects that were about to be made.
//!   Replaced whole by write + rename, without fsync: a reboot clears both the file and the objects.
//!
//! Beside them [`regular`] opens files of others' directories (logs), where something else may lie by now.
//!
//! Never knows pods, images or networks; never keeps a cache of values.

pub mod database;
mod health;
pub mod ledger;
pub mod regular;
mod reserve;

pub use database::{Entry, Store, StoreError, Table, Ticket};
pub use health::Trouble;
pub use ledger::{Ledger, LedgerError, replace};
