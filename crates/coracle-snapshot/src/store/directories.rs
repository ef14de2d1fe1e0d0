//! Directories of the state: locked, private, listed, named.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{BlockingRetryable as _, ConstantBuilder};
use rustix::fs::{CWD, Dir, FlockOperation, Mode, fchmod, flock, mkdirat};
use rustix::io::Errno;

use super::{LOCK, open_directory};
use crate::error::Error;

/// How long a lock is waited for that another process holds: two seconds in all.
const HELD_DELAY: Duration = Duration::from_millis(10);
const HELD_TIMES: usize = 200;

/// Takes the lock. A process that another one is just forking holds its locks until it executes its program,
/// and a daemon that is going holds them until it is gone: both are waited for, for a moment.
pub(super) fn lock_alone(lock: &OwnedFd, root: &Path) -> Result<(), Error> {
    let lock_alone = || flock(lock, FlockOperation::NonBlockingLockExclusive);
    let locked = lock_alone
        .retry(
            ConstantBuilder::new()
                .with_delay(HELD_DELAY)
                .with_max_times(HELD_TIMES),
        )
        .when(|errno| *errno == Errno::WOULDBLOCK)
        .call();
    match locked {
        Err(Errno::WOULDBLOCK) => Err(Error::Locked {
            root: root.to_owned(),
        }),
        other => other.map_err(Error::state("lock", root.join(LOCK))),
    }
}

/// Opens a directory that only its owner may enter, made if missing.
pub(super) fn private_directory(path: &Path) -> Result<OwnedFd, Error> {
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::state("make", path)(errno)),
    }
    let directory = open_directory(CWD, path).map_err(Error::state("open", path))?;
    fchmod(&directory, Mode::RWXU).map_err(Error::state("make private", path))?;
    Ok(directory)
}

/// Names in a directory of ours; all are ASCII, others are left alone.
pub(super) fn names(directory: &OwnedFd, path: impl Fn() -> PathBuf) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(|errno| Error::state("list", path())(errno))? {
        let entry = entry.map_err(|errno| Error::state("list", path())(errno))?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => names.push(name.to_owned()),
            Err(_) => {}
        }
    }
    Ok(names)
}
