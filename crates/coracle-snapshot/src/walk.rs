//! Walks trees by descriptors without recursion: to remove them, to count what they take, and to see whether
//! they were changed.
//!
//! Never follows a symbolic link, never enters another mount, opens at most [`MOST_OPEN`] directories at
//! once however deep the tree is.

mod fingerprint;

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, RawDir, fchmod, ioctl_getflags, ioctl_setflags, openat, openat2,
    unlinkat,
};
use rustix::io::Errno;

use crate::extract::inside;
use crate::snapshotter::Usage;
use crate::stat::Stat;

pub(crate) use fingerprint::{Fingerprint, fingerprint};

const MOST_OPEN: usize = 64;
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where a walk failed, and how.
#[derive(Debug)]
pub(crate) struct WalkError {
    pub(crate) name: OsString,
    pub(crate) errno: Errno,
}

impl WalkError {
    fn at(name: &OsStr) -> impl FnOnce(Errno) -> Self {
        move |errno| Self {
            name: name.to_owned(),
            errno,
        }
    }
}

impl From<WalkError> for std::io::Error {
    fn from(error: WalkError) -> Self {
        let cause = Self::from(error.errno);
        Self::new(cause.kind(), format!("{}: {cause}", error.name.display()))
    }
}

/// A directory on the way down.
struct Frame {
    name: CString,
    /// Closed while the walk is far below; `..` of the directory below leads back, if it still is it.
    fd: Option<OwnedFd>,
    identity: (u32, u32, u64),
    ahead: Vec<CString>,
}

/// What is done on a walk.
trait Visit {
    /// A directory was opened and nothing of it was read yet.
    fn enter(&mut self, directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno>;
    /// A name that is no directory.
    fn other(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno>;
    /// All below `name` was visited.
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno>;
}

/// Walks the directory `name`, depth first.
fn walk(parent: BorrowedFd<'_>, name: &OsStr, visit: &mut impl Visit) -> Result<(), WalkError> {
    let start = CString::new(name.as_bytes()).map_err(|_| WalkError::at(name)(Errno::INVAL))?;
    let mut trail = vec![open_frame(parent, start, visit)?];
    while let Some(here) = trail.last_mut() {
        if let Some(next) = here.ahead.pop() {
            let fd = here.fd.as_ref().map(AsFd::as_fd).expect("the last frame is open");
            let frame = match open_frame(fd, next, visit) {
                // Removed or replaced meanwhile: a live container's writable layer may change.
                Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other?,
            };
            trail.push(frame);
            if let Some(far) = trail.len().checked_sub(MOST_OPEN) {
                trail[far].fd = None;
            }
            continue;
        }
        let done = trail.pop().expect("the loop's condition");
        match trail.last_mut() {
            None => visit
                .leave(parent, &done.name)
                .map_err(WalkError::at(display(&done.name)))?,
            Some(above) => {
                if above.fd.is_none() {
                    above.fd =
                        Some(reopen(&done, above.identity).map_err(WalkError::at(display(&done.name)))?);
                }
                let fd = above.fd.as_ref().map(AsFd::as_fd).expect("just opened");
                visit
                    .leave(fd, &done.name)
                    .map_err(WalkError::at(display(&done.name)))?;
            }
        }
    }
    Ok(())
}

fn display(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// The directory above `below`, provided that it is the one that the walk came through.
fn reopen(below: &Frame, identity: (u32, u32, u64)) -> Result<OwnedFd, Errno> {
    let fd = below.fd.as_ref().expect("a frame that is left is open");
    let above = openat(fd, c"..", OPEN, Mode::empty())?;
    if Stat::of(&above)?.identity == identity {
        Ok(above)
    } else {
        Err(Errno::STALE)
    }
}

fn open_frame(parent: BorrowedFd<'_>, name: CString, visit: &mut impl Visit) -> Result<Frame, WalkError> {
    let mut scan = || -> Result<_, Errno> {
        let fd = match openat2(parent, &name, OPEN, Mode::empty(), inside()) {
            Err(Errno::ACCESS) => {
                // Mode 000 stops who lacks CAP_DAC_OVERRIDE; the owner may change it.
                let path = openat2(
                    parent,
                    &name,
                    (OPEN - OFlags::RDONLY) | OFlags::PATH,
                    Mode::empty(),
                    inside(),
                )?;
                let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&path));
                rustix::fs::chmod(by_descriptor, Mode::RWXU)?;
                openat2(parent, &name, OPEN, Mode::empty(), inside())?
            }
            other => other?,
        };
        let stat = Stat::of(&fd)?;
        visit.enter(fd.as_fd(), &name, &stat)?;
        let ahead = read(&fd, visit)?;
        Ok((fd, stat.identity, ahead))
    };
    match scan() {
        Ok((fd, identity, ahead)) => Ok(Frame {
            name,
            fd: Some(fd),
            identity,
            ahead,
        }),
        Err(errno) => Err(WalkError::at(display(&name))(errno)),
    }
}

/// Visits what is no directory, gives the names that are.
fn read(directory: &OwnedFd, visit: &mut impl Visit) -> Result<Vec<CString>, Errno> {
    let mut directories = Vec::new();
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => Stat::at(directory, name).is_ok_and(|stat| stat.is_directory()),
            _ => false,
        };
        if is_directory {
            directories.push(name.to_owned());
        } else {
            visit.other(directory.as_fd(), name)?;
        }
    }
    Ok(directories)
}

/// Removes a name with all below it. Gives what was freed, and how much of that were directories.
///
/// An immutable or append-only flag, which a privileged container may have set, is taken off. A mount on
/// the way is an error: what is mounted is never touched.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(Usage, Usage), WalkError> {
    let mut remover = Remover::default();
    match unlink(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok((remover.all, remover.directories)),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(WalkError::at(name)(errno)),
    }
    // A file system may skip a name while others are removed from its directory: look again.
    for _ in 0..4 {
        match walk(parent, name, &mut remover) {
            Err(error) if error.errno == Errno::NOTEMPTY => {}
            other => return other.map(|()| (remover.all, remover.directories)),
        }
    }
    Err(WalkError::at(name)(Errno::NOTEMPTY))
}

#[derive(Default)]
struct Remover {
    all: Usage,
    directories: Usage,
}

impl Visit for Remover {
    fn enter(&mut self, directory: BorrowedFd<'_>, _: &CStr, stat: &Stat) -> Result<(), Errno> {
        let usage = Usage {
            bytes: stat.bytes,
            inodes: 1,
        };
        self.all = self.all + usage;
        self.directories = self.directories + usage;
        if stat.mode & 0o700 != 0o700 {
            // For root this changes nothing; others need it to empty their own directory.
            match fchmod(directory, Mode::RWXU) {
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn other(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let stat = match Stat::at(directory, name) {
            // Another sweep of the same leftovers was faster.
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        match unlink(directory, display(name), AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        }
        if stat.links <= 1 {
            self.all = self.all
                + Usage {
                    bytes: stat.bytes,
                    inodes: 1,
                };
        }
        Ok(())
    }

    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        match unlink(parent, display(name), AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

fn unlink(parent: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
    match unlinkat(parent, name, flags) {
        Err(Errno::PERM | Errno::ACCESS) => {
            // Either the directory or what is in it may bear the flag.
            thaw(parent)?;
            let open = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let stat = Stat::at(parent, name)?;
            if matches!(stat.kind, FileType::RegularFile | FileType::Directory) {
                thaw(&openat2(parent, name, open, Mode::empty(), inside())?)?;
            }
            unlinkat(parent, name, flags)
        }
        other => other,
    }
}

/// Takes off the flags that keep even root from changing a file.
fn thaw(file: impl AsFd) -> Result<(), Errno> {
    let frozen = IFlags::IMMUTABLE | IFlags::APPEND;
    match ioctl_getflags(&file) {
        Ok(flags) if flags.intersects(frozen) => ioctl_setflags(&file, flags - frozen),
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What a tree takes. A file with several names counts once. The tree may change meanwhile: what goes
/// away while it is looked at is left out.
pub(crate) fn usage(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Usage, WalkError> {
    let mut counter = Counter::default();
    for _ in 0..4 {
        match walk(parent, name, &mut counter) {
            // A directory was moved away from under the walk: count anew.
            Err(error) if error.errno == Errno::STALE => counter = Counter::default(),
            other => return other.map(|()| counter.usage),
        }
    }
    Err(WalkError::at(name)(Errno::STALE))
}

#[derive(Default)]
struct Counter {
    usage: Usage,
    seen: HashSet<(u32, u32, u64)>,
}

impl Visit for Counter {
    fn enter(&mut self, _: BorrowedFd<'_>, _: &CStr, stat: &Stat) -> Result<(), Errno> {
        self.usage = self.usage
            + Usage {
                bytes: stat.bytes,
                inodes: 1,
            };
        Ok(())
    }

    fn other(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let stat = match Stat::at(directory, name) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if stat.links <= 1 || self.seen.insert(stat.identity) {
            self.usage = self.usage
                + Usage {
                    bytes: stat.bytes,
                    inodes: 1,
                };
        }
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<(), Errno> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
