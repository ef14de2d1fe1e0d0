//! File systems made by fsopen(2), with what the kernel logs in the context when it refuses.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::step::{Failure, Step};

/// Longest string that fsconfig(2) takes.
pub(crate) const LONGEST_VALUE: usize = 255;

/// A file system being configured.
#[derive(Debug)]
pub(crate) struct FsContext {
    context: OwnedFd,
    kind: String,
    step: Step,
}

impl FsContext {
    pub(crate) fn open(kind: &str, step: Step) -> Result<Self, Failure> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| Failure::new(step, errno, format!("fsopen {kind}")))?;
        Ok(Self {
            context,
            kind: kind.into(),
            step,
        })
    }

    /// Without a failure that explains, for values that are tried.
    pub(crate) fn try_set(&self, key: &str, value: &str) -> Result<(), Errno> {
        if value.len() > LONGEST_VALUE {
            return Err(Errno::INVAL);
        }
        fsconfig_set_string(&self.context, key, value)
    }

    pub(crate) fn try_set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        fsconfig_set_fd(&self.context, key, fd)
    }

    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), Failure> {
        self.try_set(key, value)
            .map_err(|errno| self.failure(errno, &format!("{key}={value}")))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<(), Failure> {
        fsconfig_set_flag(&self.context, key).map_err(|errno| self.failure(errno, key))
    }

    /// Makes the superblock and a detached mount of it.
    pub(crate) fn mount(self) -> Result<OwnedFd, Failure> {
        fsconfig_create(&self.context).map_err(|errno| self.failure(errno, "create"))?;
        let none = MountAttrFlags::empty();
        fsmount(&self.context, FsMountFlags::FSMOUNT_CLOEXEC, none)
            .map_err(|errno| self.failure(errno, "fsmount"))
    }

    pub(crate) fn failure(&self, errno: Errno, what: &str) -> Failure {
        let mut detail = format!("{}: {what}", self.kind);
        let mut line = [0_u8; 512];
        // Each read gives one message, `e` and a space before the text of an error.
        for _ in 0..8 {
            match rustix::io::read(&self.context, &mut line[..]) {
                Ok(length) if length > 0 => {
                    let text = String::from_utf8_lossy(&line[..length]);
                    detail.push_str(&format!(
                        "; kernel: {}",
                        text.trim_start_matches(['e', 'w', 'i']).trim()
                    ));
                }
                _ => break,
            }
        }
        Failure::new(self.step, errno, detail)
    }
}

/// What lies below a directory that is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Submounts {
    With,
    Without,
}

/// A detached copy of the mount (tree) that a descriptor is on, as a bind mount would make it.
pub(crate) fn clone_tree(at: BorrowedFd<'_>, submounts: Submounts) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if submounts == Submounts::With {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(at, c"", flags)
}

/// Attaches a detached mount to the very file that a descriptor is on.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), c"", target.as_fd(), c"", flags)
}
