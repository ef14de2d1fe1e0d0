//! The host's procfs by a descriptor that was seen to be procfs (classes CVE-2019-16884, CVE-2025-52881).
//!
//! What is written through it cannot be redirected by a file system that an image or a sibling mounts. It
//! works inside the container too: its PID namespace contains ours, and sysctls of a namespace are looked
//! up by the namespaces of the process that opens them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fstatfs, open, openat2};
use rustix::io::Errno;

use crate::step::{At as _, Failure, Step};

const MAGIC: i64 = 0x9fa0;
const ROOT_INODE: u64 = 1;

/// The root of a procfs.
#[derive(Debug)]
pub(crate) struct ProcFs {
    root: OwnedFd,
}

impl ProcFs {
    /// The one at `/proc`.
    pub(crate) fn of_host() -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open("/proc", flags, Mode::empty()).at(Step::ReadSpec, || "open /proc")?;
        Self::checked(root).at(Step::ReadSpec, || "/proc is not the root of a procfs")
    }

    fn checked(root: OwnedFd) -> Result<Self, Errno> {
        if !is_procfs(root.as_fd())? || fstat(&root)?.st_ino != ROOT_INODE {
            return Err(Errno::XDEV);
        }
        Ok(Self { root })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Writes `value` at once into the file at `path` below the root, which must be of this procfs.
    pub(crate) fn write(&self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat2(&self.root, path, flags, Mode::empty(), how)?;
        write_checked(file.as_fd(), value)
    }

    /// Sets a kernel parameter given as `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.1/forwarding`.
    pub(crate) fn set_sysctl(&self, key: &str, value: &str) -> Result<(), Errno> {
        let path = sysctl_path(key).ok_or(Errno::INVAL)?;
        self.write(&format!("sys/{path}"), value.as_bytes())
    }
}

fn write_checked(file: BorrowedFd<'_>, value: &[u8]) -> Result<(), Errno> {
    if !is_procfs(file)? {
        return Err(Errno::XDEV);
    }
    let written = rustix::io::write(file, value)?;
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

pub(crate) fn is_procfs(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.f_type == MAGIC)
}

/// As sysctl(8) reads keys: the first separator that occurs is the separator, the other is literal.
pub(crate) fn sysctl_path(key: &str) -> Option<String> {
    let path: String = if key.find('/').unwrap_or(usize::MAX) < key.find('.').unwrap_or(usize::MAX) {
        key.to_owned()
    } else {
        key.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    };
    let plain = !path.is_empty()
        && path.len() < 256
        && path.split('/').all(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte))
        });
    plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_one_file_below_proc_sys_or_none() {
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward").as_deref(),
            Some("net/ipv4/ip_forward")
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.1/x").as_deref(),
            Some("net/ipv4/conf/eth0.1/x")
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.x").as_deref(),
            Some("net/ipv4/conf/eth0.1/x")
        );
        for bad in [
            "",
            ".",
            "..",
            "kernel..x",
            "kernel./../x",
            "kernel.x\n",
            "a b",
            "kernel/../vm",
            "+net.x",
        ] {
            assert_eq!(sysctl_path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn another_file_system_in_its_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let fd = open(directory.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(ProcFs::checked(fd).is_err());
        let below = open("/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(ProcFs::checked(below).is_err(), "procfs, but not its root");
        let file = tempfile::tempfile().unwrap();
        assert_eq!(write_checked(file.as_fd(), b"x").err(), Some(Errno::XDEV));
        assert_eq!(file.metadata().unwrap().len(), 0);
        ProcFs::of_host()
            .unwrap()
            .write("thread-self/comm", b"proc-test")
            .unwrap();
    }
}
