//! mount_setattr(2): flags, propagation and id mappings of mounts that are not attached yet.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::fork::last_errno;

/// A flag of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Nothing is written.
    ReadOnly,
    /// Set-user-id bits and file capabilities do nothing.
    NoSuid,
    /// Device nodes cannot be opened.
    NoDev,
    /// Nothing is executed.
    NoExec,
    /// Symbolic links are not followed.
    NoSymFollow,
    /// Access times of directories stay.
    NoDirAtime,
    /// Access times are written when older than the change (kernel default).
    RelAtime,
    /// Access times stay.
    NoAtime,
    /// Access times are always written.
    StrictAtime,
}

/// How mount events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not.
    Private,
    /// From the peer group to here.
    Slave,
    /// Both ways.
    Shared,
    /// Not, and not to be bound elsewhere.
    Unbindable,
}

/// Whether mounts below are meant too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount.
    This,
    /// This mount and those below (AT_RECURSIVE).
    Tree,
}

/// Changes for one call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    set: u64,
    clear: u64,
    propagation: Option<Propagation>,
    user_namespace: Option<BorrowedFd<'a>>,
}

impl<'a> Change<'a> {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a flag; the three of access times replace one another.
    #[must_use]
    pub fn set(mut self, flag: Flag) -> Self {
        let (bit, atime) = bits(flag);
        if atime {
            self.clear |= libc::MOUNT_ATTR__ATIME;
            self.set &= !libc::MOUNT_ATTR__ATIME;
        } else {
            self.clear &= !bit;
        }
        self.set |= bit;
        self
    }

    /// Clears a flag; one of access times becomes `RelAtime`.
    #[must_use]
    pub fn clear(mut self, flag: Flag) -> Self {
        let (bit, atime) = bits(flag);
        if atime {
            self.clear |= libc::MOUNT_ATTR__ATIME;
            self.set &= !libc::MOUNT_ATTR__ATIME;
        } else {
            self.clear |= bit;
            self.set &= !bit;
        }
        self
    }

    /// Sets the propagation.
    #[must_use]
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = Some(propagation);
        self
    }

    /// Maps ids as the user namespace of the descriptor does (Linux 5.12; the mount must be detached).
    #[must_use]
    pub fn mapped(mut self, user_namespace: BorrowedFd<'a>) -> Self {
        self.user_namespace = Some(user_namespace);
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation.is_none() && self.user_namespace.is_none()
    }

    /// Applies it to the mount of a descriptor.
    ///
    /// # Errors
    /// `EINVAL` for a file system without id-mapped mounts, `ENOSYS` below Linux 5.12.
    pub fn apply(&self, mount: BorrowedFd<'_>, depth: Depth) -> Result<(), Errno> {
        if self.is_empty() {
            return Ok(());
        }
        let mapped = self.user_namespace.map_or(0, |_| libc::MOUNT_ATTR_IDMAP);
        let attr = libc::mount_attr {
            attr_set: self.set | mapped,
            attr_clr: self.clear,
            propagation: self.propagation.map_or(0, |propagation| match propagation {
                Propagation::Private => libc::MS_PRIVATE,
                Propagation::Slave => libc::MS_SLAVE,
                Propagation::Shared => libc::MS_SHARED,
                Propagation::Unbindable => libc::MS_UNBINDABLE,
            }),
            userns_fd: self.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
        };
        let recursive = match depth {
            Depth::This => 0,
            Depth::Tree => libc::AT_RECURSIVE,
        };
        // SAFETY: the path is empty as AT_EMPTY_PATH wants it, `attr` is whole and of the size given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | recursive,
                &raw const attr,
                size_of::<libc::mount_attr>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }
}

fn bits(flag: Flag) -> (u64, bool) {
    match flag {
        Flag::ReadOnly => (libc::MOUNT_ATTR_RDONLY, false),
        Flag::NoSuid => (libc::MOUNT_ATTR_NOSUID, false),
        Flag::NoDev => (libc::MOUNT_ATTR_NODEV, false),
        Flag::NoExec => (libc::MOUNT_ATTR_NOEXEC, false),
        Flag::NoSymFollow => (libc::MOUNT_ATTR_NOSYMFOLLOW, false),
        Flag::NoDirAtime => (libc::MOUNT_ATTR_NODIRATIME, false),
        Flag::RelAtime => (libc::MOUNT_ATTR_RELATIME, true),
        Flag::NoAtime => (libc::MOUNT_ATTR_NOATIME, true),
        Flag::StrictAtime => (libc::MOUNT_ATTR_STRICTATIME, true),
    }
}
