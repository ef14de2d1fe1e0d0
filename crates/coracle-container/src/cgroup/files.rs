//! Reading and writing the files of a cgroup, with errors that name file and value.

use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::error::Error;

pub(super) fn write(directory: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = directory.join(file);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    open(&path, flags, Mode::empty())
        .and_then(|fd| rustix::io::write(&fd, value.as_bytes()))
        .map(drop)
        .map_err(|errno| Error::Cgroup {
            operation: format!("write {value:?}"),
            path,
            source: errno.into(),
        })
}

/// For files that not every kernel has and whose absence does no harm.
pub(super) fn write_if_there(directory: &Path, file: &str, value: &str) -> Result<(), Error> {
    match write(directory, file, value) {
        Err(Error::Cgroup { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(super) fn read(directory: &Path, file: &str) -> Result<String, Error> {
    let path = directory.join(file);
    std::fs::read_to_string(&path).map_err(|source| Error::Cgroup {
        operation: "read".into(),
        path,
        source,
    })
}

pub(super) fn read_number(directory: &Path, file: &str) -> Result<u64, Error> {
    let text = read(directory, file)?;
    text.trim().parse().map_err(|_| Error::Cgroup {
        operation: format!("read a number, not {:?}", text.trim()),
        path: directory.join(file),
        source: std::io::ErrorKind::InvalidData.into(),
    })
}

/// The number after `key` in a file of `key number` lines; `None` when the file or the line is missing.
pub(super) fn read_key(directory: &Path, file: &str, key: &str) -> Option<u64> {
    let text = read(directory, file).ok()?;
    find_key(&text, key)
}

pub(super) fn find_key(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(super) fn exists(directory: &Path, file: &str) -> bool {
    rustix::fs::access(directory.join(file), rustix::fs::Access::EXISTS).is_ok()
}
