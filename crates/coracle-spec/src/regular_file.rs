//! Reading foreign files: only regular ones, only so many bytes, never waiting for a writer.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

/// `openat2` says EAGAIN when something was renamed while it resolved `..`; it may be tried again.
const ATTEMPTS: usize = 16;

/// Opens `path` below `root` as if `root` were `/`, without opening what it leads to: a FIFO does not
/// block and a device does not notice. Magic links (`/proc/self/fd/..`) are not followed.
pub(crate) fn find_in_root(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let mut last = rustix::io::Errno::AGAIN;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            Ok(found) => return Ok(found),
            Err(again @ rustix::io::Errno::AGAIN) => last = again,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

/// Reads all of a regular file that was found as a path, at most `max` bytes; anything else, and
/// anything longer, is an error.
pub(crate) fn read(found: &OwnedFd, max: usize) -> io::Result<Vec<u8>> {
    let status = rustix::fs::fstat(found)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::other(format!("it is no regular file but {kind:?}")));
    }
    // Opened through the descriptor, so what was checked is what is read.
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::File::from(rustix::fs::open(again, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::other(format!("it is longer than {max} bytes")));
    }
    Ok(bytes)
}
