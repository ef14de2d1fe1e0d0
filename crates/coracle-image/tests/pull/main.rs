//! Pulls, loads and removals against Debian's docker-registry and against a server with faults.

#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests as tests"
)]

mod archives;
mod auth;
mod faults;
mod image;
mod life;
mod mirrors;
mod node;
mod registry;
mod server;
