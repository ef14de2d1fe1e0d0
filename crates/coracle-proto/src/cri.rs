//! The CRI: package `runtime.v1`, messages, clients and servers, generated from `proto/runtime/v1`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::wildcard_imports,
    rustdoc::all,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/runtime.v1.redacted.rs"));
