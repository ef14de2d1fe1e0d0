//! Tests of pod networks on the kernel, each in network and mount namespaces of its own (root).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and report by printing"
)]

mod attach;
mod fresh;
mod ports;
mod programs;
mod recovery;
