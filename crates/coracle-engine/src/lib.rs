//! The engine: pods as actors.
//!
//! Owns what a request means in which state ([`policy`]), what joins and what supersedes what, the
//! records of pods and containers, their ledgers, recovery and audit. Must never know a wire format
//! (front ends translate) nor make a system call (the crates below do).
//!
//! A request finds its pod in an index and is a message to the pod's actor, the one task that owns its
//! state. The actor decides by the policy, runs the operation beside itself and applies what came of
//! it; reads take the last published view and never wait. One stuck pod stalls nobody.
//!
//! On disk (volatile, below the state directory; nobody else writes here):
//!
//! ```text
//! pods/<id>/       record.json   the pod as last answered for; written before the answer
//!                  ledger        kernel objects, noted before they are made
//!                  ns/ shm/ shim.sock shim.json    the shim's
//!                  resolv.conf hosts hostname      sources of its containers' mounts
//! containers/<id>/ record.json config.json         the container and its OCI bundle
//! ```
//!
//! **Invariant:** no kernel object is made before its entry is in the ledger.
//! **Invariant:** a pod's state changes in its actor only.

pub mod api;
mod audit;
mod cgroups;
pub mod config;
mod engine;
pub mod error;
pub mod events;
mod exec;
mod images;
mod index;
mod info;
mod objects;
pub mod operations;
mod parts;
mod pod;
pub mod policy;
mod record;
mod recovery;
pub mod stats;
mod status;
mod trace;

pub use crate::engine::Engine;
pub use crate::error::{EngineError, chain};
pub use crate::recovery::NodeConfig;
pub use coracle_spec::APPARMOR_PROFILE;
