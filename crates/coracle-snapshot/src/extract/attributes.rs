//! Owner, mode, extended attributes and times of a file, set through its descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, futimens,
};
use rustix::io::Errno;

use super::ExtractError;
use crate::archive::Entry;
use crate::stat::Stat;

/// Overlay's mark on a directory that hides the same directory below.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The ACL that files made in a directory get.
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// What a file is beyond its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Of an open file, without the marks that are overlay's own.
    pub(crate) fn read(file: impl AsFd) -> rustix::io::Result<Self> {
        let stat = Stat::of(&file)?;
        let mut xattrs = Vec::new();
        for name in xattr_names(&file)? {
            if rule(&name) == Rule::Set {
                let value = xattr(&file, &name)?;
                xattrs.push((name, value));
            }
        }
        xattrs.sort();
        Ok(Self {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            xattrs,
        })
    }

    /// Of an entry: those that are to be set; ones that overlay would obey are an error.
    pub(crate) fn of_entry(entry: &Entry) -> Result<Self, ExtractError> {
        let xattrs = wanted(entry)?;
        Ok(Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            xattrs: xattrs
                .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
                .collect(),
        })
    }

    /// A directory's default ACL goes on last: what is made in it would inherit it.
    pub(crate) fn take_default_acl(&mut self) -> Option<Vec<u8>> {
        let at = self
            .xattrs
            .iter()
            .position(|(name, _)| name == DEFAULT_ACL.as_bytes())?;
        Some(self.xattrs.remove(at).1)
    }

    /// Puts these on another open file.
    pub(crate) fn write(&self, file: impl AsFd) -> rustix::io::Result<()> {
        fchown(
            &file,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
        )?;
        fchmod(&file, Mode::from_raw_mode(self.mode))?;
        for (name, value) in &self.xattrs {
            fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty())?;
        }
        Ok(())
    }
}

/// What becomes of an extended attribute of an image.
#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Set,
    /// Labels and signatures of the machine that built the image say nothing here.
    Drop,
    /// Overlay would obey it: a layer could redirect a directory or hide others.
    Refuse,
}

fn rule(name: &[u8]) -> Rule {
    if name.starts_with(b"trusted.overlay.") {
        Rule::Refuse
    } else if name == b"security.capability"
        || [&b"user."[..], b"trusted.", b"system.posix_acl_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    {
        Rule::Set
    } else {
        Rule::Drop
    }
}

/// The attributes of an entry that are to be set; refused ones are an error.
pub(super) fn wanted(entry: &Entry) -> Result<impl Iterator<Item = (&OsStr, &[u8])>, ExtractError> {
    if let Some((name, _)) = entry.xattrs.iter().find(|(name, _)| rule(name) == Rule::Refuse) {
        let name = String::from_utf8_lossy(name);
        return Err(ExtractError::refused(
            &entry.path,
            format!("its extended attribute {name} would be obeyed by overlay"),
        ));
    }
    Ok(entry
        .xattrs
        .iter()
        .filter(|(name, _)| rule(name) == Rule::Set)
        .map(|(name, value)| (OsStr::from_bytes(name), &value[..])))
}

/// Sets owner, mode and attributes of a file that was just made or found; `stat` is what it has now. The
/// order matters: chown clears setuid bits and capabilities.
pub(super) fn apply(entry: &Entry, file: impl AsFd, stat: &Stat) -> Result<(), ExtractError> {
    let owned = stat.uid == entry.uid && stat.gid == entry.gid;
    if !owned {
        fchown(
            &file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(ExtractError::io(&entry.path, "change the owner"))?;
    }
    if stat.mode != entry.mode || (!owned && entry.mode & 0o6000 != 0) {
        fchmod(&file, Mode::from_raw_mode(entry.mode))
            .map_err(ExtractError::io(&entry.path, "change the mode"))?;
    }
    for (name, value) in wanted(entry)? {
        let set = fsetxattr(&file, name, value, XattrFlags::empty());
        unless_unsupported(name, set).map_err(ExtractError::io(&entry.path, "set an extended attribute"))?;
    }
    Ok(())
}

/// A file system without ACLs or user attributes loses those; capabilities must not be lost in silence.
pub(super) fn unless_unsupported(name: &OsStr, set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match set {
        Err(Errno::OPNOTSUPP) if name != "security.capability" => {
            tracing::debug!(attribute = %name.display(), "the file system does not take this attribute");
            Ok(())
        }
        other => other,
    }
}

pub(crate) fn set_mtime(file: impl AsFd, mtime: Timespec) -> rustix::io::Result<()> {
    futimens(file, &times(mtime))
}

/// The access time stays what it is.
pub(super) fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    }
}

/// A path that reaches an open file without resolving its name again; for calls that take no descriptor.
pub(super) fn by_descriptor(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Removes what an earlier entry for the same directory set.
pub(super) fn clear_xattrs(file: impl AsFd) -> rustix::io::Result<()> {
    for name in xattr_names(&file)? {
        if rule(&name) == Rule::Set {
            fremovexattr(&file, OsStr::from_bytes(&name))?;
        }
    }
    Ok(())
}

/// Whether overlay takes a directory for opaque.
pub(crate) fn is_opaque(directory: impl AsFd) -> rustix::io::Result<bool> {
    let mut value = [0_u8; 2];
    match fgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(length == 1 && value[0] == b'y'),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn xattr_names(file: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0_u8; 256];
    loop {
        match flistxattr(&file, &mut names[..]) {
            Ok(length) => {
                names.truncate(length);
                break;
            }
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            // 64 KiB is all that the kernel ever gives (XATTR_LIST_MAX).
            Err(Errno::RANGE) if names.len() < 65536 => names.resize(65536, 0),
            Err(errno) => return Err(errno),
        }
    }
    Ok(names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

fn xattr(file: impl AsFd, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0_u8; 65536];
    let length = fgetxattr(file, OsStr::from_bytes(name), &mut value[..])?;
    value.truncate(length);
    Ok(value)
}
