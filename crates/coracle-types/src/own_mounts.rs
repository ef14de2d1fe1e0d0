//! Mounts for which the OCI runtime specification has no word, as they stand in a specification of ours.
//!
//! Their types are our own; other runtimes refuse them by name.

/// Type of a mount of an image's layers, read-only.
pub const LAYERS: &str = "coracle.layers";
/// Key of an option of [`LAYERS`] for each directory of the stack, the uppermost first:
/// `lowerdir=/var/lib/...`.
pub const LOWER: &str = "lowerdir";
/// Key of the option of [`LAYERS`] for the path below the merged root that is mounted in its place:
/// `subpath=models`.
pub const SUB_PATH: &str = "subpath";

/// Type of a `VOLUME` of the image: a directory of the root file system that stays writable when the root
/// does not, made where it is missing.
pub const VOLUME: &str = "coracle.volume";
