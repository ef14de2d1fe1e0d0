//! systemd's manager over D-Bus, as far as a container runtime asks it: scopes for processes that exist.
//!
//! # Owns
//! - Names of slices and scopes, and where in the cgroup hierarchy they lie ([`SliceName`], [`UnitName`]).
//! - The one connection to PID 1 ([`Systemd`]): over the system bus, made when first needed, shared by all, made anew when it
//!   was lost (a bus daemon that was started again).
//! - Waiting for jobs: a call returns when systemd has done what it was asked, not when it has noted it.
//!
//! # Must never
//! Know what a container is or which limits it has, write to a cgroup, read the specification's types.
//!
//! **Invariant:** a job's end is systemd's own word: who else is on the bus is not heard.
//! **Invariant:** every wait has a deadline; a systemd that hangs becomes an error that says so.
//!
//! # On disk
//! Nothing. Transient units are systemd's own, in `/run/systemd/transient`.

mod connection;
mod error;
mod jobs;
mod manager;
mod name;
mod property;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use connection::Way;
pub use error::Error;
pub use manager::{Scope, Systemd};
pub use name::{NameError, SliceName, UnitName};
pub use property::{Property, UNLIMITED};

/// Whether systemd is the machine's init system, as sd_booted(3) tells it.
#[must_use]
pub fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
