//! What the kernel says of a file, in one shape for every architecture.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, StatxFlags, Timespec, statx};
use rustix::path::Arg;

/// The fields of `statx` that this crate looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) kind: FileType,
    /// The twelve permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    /// As long as its content is.
    pub(crate) size: u64,
    pub(crate) bytes: u64,
    pub(crate) mtime: Timespec,
    pub(crate) device: (u32, u32),
    /// Device and inode number: the file's identity.
    pub(crate) identity: (u32, u32, u64),
}

impl Stat {
    /// Of a name in a directory; a symbolic link is itself.
    pub(crate) fn at(directory: impl AsFd, name: impl Arg) -> rustix::io::Result<Self> {
        Self::read(directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Of an open file.
    pub(crate) fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        Self::read(file, c"", AtFlags::EMPTY_PATH)
    }

    fn read(directory: impl AsFd, name: impl Arg, flags: AtFlags) -> rustix::io::Result<Self> {
        let stat = statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        let mode = u32::from(stat.stx_mode);
        Ok(Self {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            size: stat.stx_size,
            bytes: stat.stx_blocks * 512,
            mtime: Timespec {
                tv_sec: stat.stx_mtime.tv_sec,
                tv_nsec: stat.stx_mtime.tv_nsec.into(),
            },
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            identity: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
        })
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Overlay's mark for "removed below": a character device 0:0.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind == FileType::CharacterDevice && self.device == (0, 0)
    }
}
