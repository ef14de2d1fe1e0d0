//! Examines a node for what pods need of it: what is there, what its absence costs, what to do.
//!
//! Owns the questions and the verdicts; the answers come from the kernel's files, from harmless attempts
//! ([`coracle_sys::probe`], [`coracle_network::probe_support`]) and from what the caller knows of the
//! daemon. Changes nothing, needs no daemon, and must never fail: what cannot be found out is a finding,
//! too. Nothing on disk.

mod files;
mod finding;
mod subject;
mod topics;

pub use finding::{Finding, State, Topic};
pub use subject::{Condition, Configuration, Daemon, Erofs, Pending, Subject};

/// Examines the parts of the node that are asked for; all when none is named. Takes some milliseconds.
#[must_use]
pub fn examine(subject: &Subject, only: &[Topic]) -> Vec<Finding> {
    Topic::ALL
        .into_iter()
        .filter(|topic| only.is_empty() || only.contains(topic))
        .flat_map(|topic| topics::examine(topic, subject))
        .collect()
}

#[cfg(test)]
mod tests;
