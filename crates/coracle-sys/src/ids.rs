//! User and group ids of the calling thread, which must be the only one of its process.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// Sets the supplementary groups.
///
/// # Errors
/// `EPERM` in a user namespace whose `setgroups` file says deny.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)
}

/// Sets real, effective and saved group.
///
/// # Errors
/// `EINVAL` for an id without mapping in the user namespace.
pub fn set_group(gid: u32) -> Result<(), Errno> {
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
}

/// Sets real, effective and saved user.
///
/// # Errors
/// `EINVAL` for an id without mapping in the user namespace.
pub fn set_user(uid: u32) -> Result<(), Errno> {
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}
