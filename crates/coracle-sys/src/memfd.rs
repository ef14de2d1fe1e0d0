//! Files in memory that nobody can change any more.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A memfd with `content`, sealed against writing, growing, shrinking and further seals.
///
/// # Errors
/// What memfd_create, write or fcntl(F_ADD_SEALS) say.
pub fn sealed(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    // A kernel before 6.3 knows no MFD_EXEC, and then every memfd may be executed.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(
        &fd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(fd)
}
