//! The program as a file that nobody can write to, whatever namespaces they make (class CVE-2019-5736).
//!
//! A process in a container reaches the program through `/proc/<pid>/exe`. A read-only bind mount does not
//! protect it: the flag is the mount's, and root in a user namespace of its own can clear it on a clone. An
//! overlay without an upper directory is read-only by its superblock, and its pages are the file's own, so
//! that nothing is copied. Where overlay cannot be had, a sealed memfd (5.14 and older: the seals hold
//! there too) costs one copy of the program in memory for the keeper and all shims together.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::Error;

/// How the program's file is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// It lies on a detached overlay mount whose superblock is read-only.
    Overlay,
    /// It is a copy in a sealed memfd.
    Memfd,
}

/// The program, opened for execution only.
#[derive(Debug)]
pub struct Sealed {
    /// To execute by `execveat(fd, "", ..)` or by its `/proc/self/fd` name; close-on-exec.
    pub file: OwnedFd,
    /// What protects it.
    pub protection: Protection,
}

/// Opens `program` so that it can be executed and by no means written to. `empty` is an empty directory of
/// ours: an overlay without an upper directory wants two lower ones.
///
/// # Errors
/// When neither an overlay mount nor a memfd can be made; the error is the memfd's.
pub fn sealed(program: &Path, empty: &Path) -> Result<Sealed, Error> {
    let program = std::fs::canonicalize(program).map_err(Error::path("resolve", program))?;
    if let Ok(file) = on_overlay(&program, empty) {
        return Ok(Sealed {
            file,
            protection: Protection::Overlay,
        });
    }
    let file = in_memfd(&program)?;
    Ok(Sealed {
        file,
        protection: Protection::Memfd,
    })
}

fn on_overlay(program: &Path, empty: &Path) -> io::Result<OwnedFd> {
    let (Some(directory), Some(name)) = (program.parent(), program.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let context = by_layer(directory, empty).or_else(|_| joined(directory, empty))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&mount, name, flags, Mode::empty())?;
    let (there, here) = (rustix::fs::fstat(&file)?, rustix::fs::stat(program)?);
    if (there.st_size, there.st_mtime) != (here.st_size, here.st_mtime) {
        return Err(io::Error::other("the file changed while it was mounted"));
    }
    Ok(file)
}

/// A superblock of two layers, each told by `lowerdir+` (newer than Linux 6.5), which takes a path as it is. Before
/// 6.5 the option is refused only when the superblock is made, so its making is part of the try.
fn by_layer(directory: &Path, empty: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for path in [directory, empty] {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", path)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(context)
}

/// The same by one option, which wants `:` and `\` escaped and ends at 256 bytes (fsconfig(2)): longer paths fall to
/// the memfd.
fn joined(directory: &Path, empty: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let both = [escaped(directory)?, escaped(empty)?].join(":");
    rustix::mount::fsconfig_set_string(&context, "lowerdir", both)?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(context)
}

fn escaped(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(text.replace('\\', "\\\\").replace(':', "\\:"))
}

fn in_memfd(program: &Path) -> Result<OwnedFd, Error> {
    let mut from = File::open(program).map_err(Error::path("open", program))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Without MFD_EXEC a kernel with vm.memfd_noexec (6.3) makes it not executable; older ones refuse the flag.
    let memfd = rustix::fs::memfd_create("coracle", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("coracle", flags))
        .map_err(Error::system("memfd_create"))?;
    let mut into = File::from(memfd);
    io::copy(&mut from, &mut into).map_err(Error::path("copy to a memfd", program))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&into, seals).map_err(Error::system("seal the program's memfd"))?;
    // A descriptor opened for writing makes execve answer ETXTBSY: reopen it for execution only.
    let writable = OwnedFd::from(into);
    let path = descriptor_path(&writable);
    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::path("reopen", path)(error.into()))
}

/// A path by which this process, or its child before execve, names `file`.
pub(crate) fn descriptor_path(file: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn writable(file: &OwnedFd) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(descriptor_path(file), flags, Mode::empty())
            .map(drop)
            .map_err(Into::into)
    }

    #[test]
    fn a_memfd_program_runs_and_cannot_be_changed() {
        let file = in_memfd(Path::new("/bin/true")).expect("memfd");
        assert!(
            Command::new(descriptor_path(&file))
                .status()
                .expect("run")
                .success()
        );
        if let Ok(()) = writable(&file) {
            let open = rustix::fs::open(descriptor_path(&file), OFlags::WRONLY, Mode::empty()).expect("open");
            assert_eq!(rustix::io::write(&open, b"x"), Err(rustix::io::Errno::PERM));
        }
    }

    #[test]
    fn as_root_an_overlay_program_runs_and_cannot_be_opened_for_writing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let empty = tempfile::tempdir().expect("a directory");
        let program = std::fs::canonicalize("/bin/true").expect("resolve");
        let file = on_overlay(&program, empty.path()).expect("an overlay on every kernel that has one");
        assert!(
            Command::new(descriptor_path(&file))
                .status()
                .expect("run")
                .success()
        );
        let error = writable(&file).expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    }

    #[test]
    fn as_root_the_older_option_mounts_on_every_kernel() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let lower = tempfile::Builder::new()
            .prefix("a:b")
            .tempdir()
            .expect("a directory");
        let empty = tempfile::tempdir().expect("a directory");
        joined(lower.path(), empty.path()).expect("the superblock");
    }
}
