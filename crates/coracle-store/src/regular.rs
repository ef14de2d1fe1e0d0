//! Opens files that lie where others may have put something else: a link, a FIFO, a device.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It must be there.
    Read,
    /// It is made, readable for owner and group, if it is not there.
    Append,
}

/// Opens a regular file. Its last part may be no link, and what would block (a FIFO) never does; the
/// directories above are trusted. The descriptor does not block and is closed at execve.
///
/// # Errors
/// ELOOP for a link, ENXIO or `InvalidInput` for what is no regular file, and what else open(2) says.
pub fn open(path: &Path, access: Access) -> io::Result<File> {
    let for_what = match access {
        Access::Read => OFlags::RDONLY,
        Access::Append => OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND,
    };
    let flags = for_what | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_pipes_and_directories_are_refused_and_nothing_blocks() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "x").expect("written");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("linked");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("made");
        for access in [Access::Read, Access::Append] {
            assert!(open(&at("file"), access).is_ok());
            for other in ["link", "pipe", "."] {
                assert!(open(&at(other), access).is_err(), "{other}");
            }
        }
        assert!(open(&at("none"), Access::Read).is_err() && open(&at("none"), Access::Append).is_ok());
    }
}
