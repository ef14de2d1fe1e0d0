//! The admin service: package `coracle.admin.v1`, generated from `proto/coracle/admin/v1`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::wildcard_imports,
    rustdoc::all,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/coracle.admin.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/coracle.admin.v1.redacted.rs"));
