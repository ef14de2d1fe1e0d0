//! The nouns of the project: ids, references, states, configurations and error kinds.
//!
//! Owns no behaviour beyond checking that a value is well formed. Must never do IO, know a wire
//! format or hold policy. The configurations mirror CRI v1's messages field for field where the
//! engine needs them, so that the protobuf types stay in one crate.

pub mod cgroup2;
pub mod container;
pub mod digest;
pub mod format;
pub mod ids;
pub mod image;
pub mod kind;
pub mod own_mounts;
pub mod pod;
pub mod resources;
pub mod security;
pub mod signal;
pub mod steps;
pub mod time;

pub use digest::Digest;
pub use ids::{ContainerId, ExecId, Instance, MalformedId, PodSandboxId, RuntimeHandlerName};
pub use kind::{Kind, Kinded};
