//! The client's side of a shim: launches it through the keeper and calls it.
//!
//! Owns the connection to each shim and what its calls mean in the project's own types. Must never
//! let a protobuf type out, hold a pod's state, or start a thread or a timer a pod: a pending call is
//! how it waits. Nothing on disk.
//!
//! A shim that this project did not write is reached by the same calls (shim v2: Task v3, Sandbox); the
//! extension `coracle.shim.v1` is what ours offers beyond them.

mod capture;
mod connection;
mod error;
mod patience;
mod requests;
mod shim;
mod shims;
mod upkeep;

pub use crate::error::Error;
pub use crate::patience::Deadlines;
pub use crate::requests::{
    ExecOutput, ExecSync, KillScope, NamespaceRequest, SandboxCreated, SandboxRequest, TaskCreate, TaskState,
    TaskStats,
};
pub use crate::shim::Shim;
pub use crate::shims::{Keeperless, Place, Settle, Shims, ShimsConfig};
