//! What tests stand on: nodes, census, registries with faults, an image builder, a CRI client.
//!
//! Owns everything that a test or a demonstration needs around the daemon, and nothing of the daemon:
//! it drives the built program and looks at the kernel from outside. Must never be linked into the
//! program, and must not need libseccomp, because `cargo xtask` stands on it before that is installed.
//!
//! A node keeps its files below `$TMPDIR/coracle-nodes/<instance>/`: `init.sh` and `guard.sh` (what
//! runs it), `lib/` (the daemon's root directory), `upper/` (what the node writes to /etc and
//! /var/lib, a tmpfs of its own), `*.log`. The directory goes with the node.

pub mod census;
pub mod clock;
pub mod cni;
pub mod cri;
pub mod image;
pub mod measure;
pub mod node;
pub mod prose;
pub mod registry;
pub mod wait;
