//! Mounts of images' layers: the merged tree or a part of it, read-only, made where nobody sees it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use coracle_sys::mount_attr::{Change, Depth, Propagation};
use coracle_types::own_mounts;
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, open, openat2, statat};
use rustix::io::Errno;

use super::options::Options;
use super::{Mapping, What};
use crate::error::Error;
use crate::filesystem::{ANY_DIRECTORY, Submounts, attach, clone_tree, made_by_child};
use crate::paths::Target;
use crate::rootfs;
use crate::step::{At as _, Step};

const STEP: Step = Step::MakeMounts;
/// A path that leaves the image, by `..` or by a link, is refused and not bent back to its root: what would
/// be mounted is not what was meant.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Stacks the layers that the options name and takes the part that is asked for.
pub(super) fn plan(
    mount: &Mount,
    destination: &str,
    options: &Options,
    mapping: &mut Mapping<'_>,
) -> Result<What, Error> {
    let mut lowers = Vec::new();
    let mut sub_path = None;
    for (key, value) in &options.data {
        match (key.as_str(), value) {
            (own_mounts::LOWER, Some(path)) => lowers.push(PathBuf::from(path)),
            (own_mounts::SUB_PATH, Some(path)) => sub_path = Some(path.as_str()),
            (other, _) => {
                return Err(Error::spec(
                    "mounts.options",
                    other,
                    "is none of a mount of layers",
                ));
            }
        }
    }
    if lowers.is_empty() {
        return Err(Error::spec(
            "mounts.options",
            own_mounts::LOWER,
            "give one at least",
        ));
    }
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let mapped = options.mapped.is_some() || !uids.is_empty() || !gids.is_empty();
    let mapped_by = if mapped { Some(mapping(uids, gids)?) } else { None };
    let whole = rootfs::view(&lowers, mapped_by.as_ref().map(OwnedFd::as_fd))?;
    let tree = match sub_path {
        None => whole,
        Some(path) => part(whole.as_fd(), path).at(STEP, || {
            format!("sub path {path} of the image mounted at {destination}")
        })?,
    };
    let stat = statat(&tree, c"", AtFlags::EMPTY_PATH).at(STEP, || destination.to_owned())?;
    Change::new()
        .propagation(Propagation::Private)
        .apply(tree.as_fd(), Depth::This)
        .at(STEP, || format!("propagation of {destination}"))?;
    options
        .change
        .apply(tree.as_fd(), Depth::This)
        .at(STEP, || format!("flags of {destination}"))?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Target::Directory,
        _ => Target::File,
    };
    Ok(What::Tree { tree, target })
}

/// A detached mount of what lies at `path` of a detached mount.
fn part(whole: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    match clone_tree(below(whole, path)?.as_fd(), Submounts::Without) {
        // Before Linux 6.15 a mount can only be cloned where it is attached.
        Err(Errno::INVAL) => part_of_attached(whole, path),
        other => other,
    }
}

/// Links to what is no file or directory lead to an error of the kernel's own; devices, pipes and sockets
/// are nothing to mount.
fn below(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(root, path, flags, Mode::empty(), INSIDE)?;
    match FileType::from_raw_mode(statat(&found, c"", AtFlags::EMPTY_PATH)?.st_mode) {
        FileType::Directory | FileType::RegularFile => Ok(found),
        _ => Err(Errno::NOTSUP),
    }
}

/// A child in a mount namespace of its own attaches the whole and gives the part away.
pub(crate) fn part_of_attached(whole: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    made_by_child(|| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        attach(whole, open(ANY_DIRECTORY, flags, Mode::empty())?.as_fd())?;
        clone_tree(below(whole, path)?.as_fd(), Submounts::Without)
    })
}
