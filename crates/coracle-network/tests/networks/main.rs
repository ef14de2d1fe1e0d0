//! Tests of pod networks on the kernel, each in network and mount namespaces of its own (root).

mod attach;
mod fresh;
mod latency;
mod ports;
mod programs;
mod recovery;
