//! End-to-end tests of the built program: conformance, recovery, scale, abuse.
//!
//! Every test here needs root: it makes a node of its own ([`Bed`]), starts `coracle serve` in it and
//! drives it through its CRI socket; at the end the census of kernel objects must be what it was before.
//! The program under test is what `CORACLE_PROGRAM` names, else the workspace's release build; without
//! it a test fails. `CORACLE_SOAK` asks for the full counts.

pub mod bed;
pub mod checks;

pub use bed::{Bed, Plan};

/// `full` when `CORACLE_SOAK` is set, else `short`.
#[must_use]
pub fn count(short: usize, full: usize) -> usize {
    if std::env::var_os("CORACLE_SOAK").is_some() {
        full
    } else {
        short
    }
}
