//! The CRI and admin services on a unix socket: translation between the wire and the engine.
//!
//! Owns what a message means in the project's own types and how a failure is said over gRPC. Must
//! never hold state or policy: what is legal when is the engine's business, named by the trait
//! [`Facilities`]. Nothing on disk but the socket, which [`socket::bind`] makes and whose file goes
//! with its [`socket::SocketFile`].
//!
//! A caller's deadline ends its waiting, not the work: calls that change something run in a task of
//! their own, and a retry joins them.

mod admin_service;
mod detached;
mod engine;
mod error;
mod facilities;
mod image_service;
mod layer;
pub mod process;
mod runtime_service;
mod server;
pub mod socket;
mod translate;

#[cfg(test)]
mod tests;

pub use crate::facilities::Facilities;
pub use crate::process::Process;
pub use crate::server::{ServeError, serve};
