//! The engine: pods as actors.
//!
//! Owns what a request means in which state, what joins and what supersedes what, the records of
//! pods and containers, their ledgers, recovery and audit. Must never know a wire format (front ends
//! translate) nor make a system call (the crates below do).
//!
//! The methods of `Engine` that are being written are listed at the end of contracts.md.

pub mod api;
pub mod error;

pub use crate::error::{EngineError, chain};
