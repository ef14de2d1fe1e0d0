//! Programs that are not roles of the main one, compiled by the build script and carried as bytes.

/// The first process of a pod's PID namespace: see `programs/pod_init.rs`.
pub const POD_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pod_init"));
