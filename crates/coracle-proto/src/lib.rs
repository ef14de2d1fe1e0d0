//! Generated types of the CRI, the admin service and the shim's protocol, and clients for them.
//!
//! Owns the project's .proto files (`proto/`): the CRI as package `runtime.v1`, the admin service
//! as `coracle.admin.v1`, the shim's extension as `coracle.shim.v1`. They are compiled by the build
//! script without protoc. Must never hold logic: what a message means is the business of the crate
//! that serves it. Nothing on disk.
//!
//! Fields marked `debug_redact` (passwords, tokens) are left out of `Debug`; the build script makes
//! these implementations from the marks, so a new mark needs no further thought.

pub mod admin;
pub mod client;
pub mod cri;
pub mod shim_ext;
