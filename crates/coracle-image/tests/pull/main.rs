//! Pulls, loads and removals against Debian's docker-registry and against a server with faults.

#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests as tests"
)]

mod archives;
mod auth;
mod breaker;
mod config;
mod faults;
mod formats;
mod image;
mod life;
mod mirrors;
mod node;
mod policy;
mod proxy;
mod push;
mod ranges;
mod registry;
mod save;
mod server;
