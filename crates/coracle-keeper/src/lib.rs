//! Forks the shims, reaps their orphans and holds the descriptors that must outlive a shim.
//!
//! # Owns
//! - The keeper process: single-threaded, a poll loop over one SEQPACKET socket, one signalfd and its
//!   connections ([`run`]). It is the parent of every shim and their subreaper.
//! - Its client ([`client::Keeper`]), which blocks: the daemon calls it from a blocking thread, the shim
//!   from its only one, since a call is a few tens of microseconds and bounded by a deadline.
//! - The form in which the program is executed so that no container can write to it ([`program`]).
//!
//! # Must never
//! Know what it holds or what a shim does (the shim's entry is passed in), parse anything that a
//! container wrote, start a thread, be asynchronous.
//!
//! **Invariant:** what the keeper holds is a duplicate; it is given up when the shim or the daemon says
//! so, never by the keeper's own judgement.
//!
//! **Invariant:** after the fork the child closes every descriptor of the keeper but its own listening
//! socket before any code of the shim runs: no shim sees another pod's pipes.
//!
//! # On disk
//! ```text
//! <runtime dir>/keeper/                0700
//!     <program>.sock                   0600, one a program version; <program> is 16 hexadecimal digits
//!     <program>.log                    what keeper and shims say on standard error
//!     lock                             flock(2) of whoever starts a keeper
//!     empty/                           second lower directory of the program's mount
//! ```
//! All of it is on tmpfs and goes with the boot.

pub mod client;
pub mod error;
pub mod launch;
pub mod process;
pub mod program;

mod cgroup;
mod held;
mod server;
mod socket;
mod spawn;
mod wire;

pub use error::Error;
pub use launch::{KeeperConfig, Program};
pub use server::{KeeperArgs, run};
pub use spawn::ShimStart;
pub use wire::{DepositKey, OrphanExit};
