//! Paths of a container that are hidden or made read-only.

use std::os::fd::{AsFd as _, OwnedFd};

use coracle_sys::mount_attr::{Change, Depth, Flag};
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;

use crate::devices::{host_null, is_directory, own_null};
use crate::filesystem::{FsContext, Submounts, attach, clone_tree};
use crate::paths::Root;
use crate::step::{At as _, Failure, Step};

/// Hides each path under an empty read-only directory or the null device; what is not there needs no mask.
///
/// Both come from a tmpfs made here that no other process can reach, and the device is seen to be
/// character device 1:3 through the descriptor that is bound: nothing an image or a sibling puts in place
/// of /dev/null plays a part (class CVE-2025-31133). The tmpfs is attached over the old root's /proc,
/// since only an attached mount can be cloned before Linux 6.15, and goes with it.
pub(crate) fn mask(root: &Root, paths: &[String]) -> Result<(), Failure> {
    let step = Step::MaskPaths;
    let mut sources: Option<(OwnedFd, OwnedFd)> = None;
    for path in paths {
        let at = || path.clone();
        let target = match root.open(path, OFlags::PATH | OFlags::CLOEXEC) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(Failure::new(step, errno, path.as_str())),
        };
        if sources.is_none() {
            sources = Some(make_sources()?);
        }
        let (null, empty) = sources.as_ref().expect("made just now");
        let source = if is_directory(&target).at(step, at)? {
            empty
        } else {
            null
        };
        let tree = clone_tree(source.as_fd(), Submounts::Without).at(step, at)?;
        hidden().apply(tree.as_fd(), Depth::This).at(step, at)?;
        attach(tree.as_fd(), target.as_fd()).at(step, at)?;
    }
    Ok(())
}

fn hidden() -> Change<'static> {
    Change::new()
        .set(Flag::ReadOnly)
        .set(Flag::NoSuid)
        .set(Flag::NoExec)
}

fn make_sources() -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = Step::MaskPaths;
    let context = FsContext::open("tmpfs", step)?;
    context.set("mode", "555")?;
    context.set("nr_inodes", "4")?;
    let top = context.mount()?;
    mkdirat(&top, "empty", Mode::from_raw_mode(0o555)).at(step, || "empty directory")?;
    let null = match own_null(&top) {
        // In a user namespace no node can be made; the host's is still the root file system's here.
        Err(Errno::PERM) => host_null(),
        result => result,
    }
    .at(step, || "null device")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let old_proc = open("/proc", flags, Mode::empty()).at(step, || "/proc of the old root")?;
    attach(top.as_fd(), old_proc.as_fd()).at(step, || "sources of masks")?;
    let empty = openat(&top, "empty", flags, Mode::empty()).at(step, || "empty directory")?;
    Ok((null, empty))
}

/// Makes each path read-only with all that is mounted below it; what is not there needs nothing.
pub(crate) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), Failure> {
    let step = Step::ReadonlyPaths;
    for path in paths {
        let at = || path.clone();
        let target = match root.open(path, OFlags::PATH | OFlags::CLOEXEC) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(Failure::new(step, errno, path.as_str())),
        };
        let tree = clone_tree(target.as_fd(), Submounts::With).at(step, at)?;
        Change::new()
            .set(Flag::ReadOnly)
            .apply(tree.as_fd(), Depth::Tree)
            .at(step, at)?;
        attach(tree.as_fd(), target.as_fd()).at(step, at)?;
    }
    Ok(())
}
