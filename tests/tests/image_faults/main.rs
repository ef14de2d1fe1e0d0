//! Everything that a registry or an image may do wrong: a clear error, nothing left, bounded memory. Needs root.
//!
//! The table of docs/image-faults.md names the test of each fault.

mod documents;
mod layers;
mod matrix;
mod registry;
