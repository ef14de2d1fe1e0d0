//! File systems made by fsopen(2), with what the kernel logs in the context when it refuses, and by mount(2) in
//! a child.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use coracle_sys::fork::{self, CloneRequest, Forked};
use coracle_sys::namespaces::{Namespace, Namespaces};
use coracle_sys::seqpacket;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
    move_mount, open_tree,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::step::{Failure, Step};

/// Longest string that fsconfig(2) takes.
pub(crate) const LONGEST_VALUE: usize = 255;
/// A directory that is surely there, for a child to mount on.
pub(crate) const ANY_DIRECTORY: &str = "/proc/sys";

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

/// A child in a mount namespace of its own makes a mount, where nobody else sees it, and gives it away.
pub(crate) fn made_by_child(make: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = seqpacket::pair()?;
    let request = CloneRequest {
        namespaces: Namespaces::NONE.with(Namespace::Mount),
        ..CloneRequest::default()
    };
    match fork::clone3(&request) {
        Err(error) => Err(error.errno().unwrap_or(Errno::BUSY)),
        Ok(Forked::InChild) => fork::run_child(|| {
            let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            let sent = match mount_change("/", alone).and_then(|()| make()) {
                Ok(mount) => seqpacket::send(theirs.as_fd(), b"0", &[mount.as_fd()]),
                Err(errno) => seqpacket::send(theirs.as_fd(), &errno.raw_os_error().to_ne_bytes(), &[]),
            };
            i32::from(sent.is_err())
        }),
        Ok(Forked::Parent(child)) => {
            drop(theirs);
            let mut answer = [0; 8];
            let heard = seqpacket::receive(ours.as_fd(), &mut answer);
            let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            let (_, mut fds) = heard?;
            let [a, b, c, d, ..] = answer;
            let errno = Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]).clamp(1, 4095));
            fds.pop().ok_or(errno)
        }
    }
}
