//! Compiled profiles as files of a directory, since every pod has a process of its own and libseccomp takes
//! 7 to 15 ms for a profile of the usual size, which is more than the rest of a container's start.
//!
//! A file is named by a hash and holds the whole profile before its program, so that a hash that meets
//! another profile's is seen. It is written beside and renamed; what is damaged is not used. The directory
//! belongs to root alone (0700) and may be emptied at any time.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{Mode, OFlags, fstat, open, rename};

/// Longest file that is read: profile and 4096 instructions.
const LONGEST: u64 = 1 << 20;

/// Changes with what is compiled from the same profile.
const FORMAT: &str = concat!("coracle-seccomp 1 ", env!("CARGO_PKG_VERSION"), "\n");

/// The profile as the key of its file.
pub(super) struct Key {
    bytes: Vec<u8>,
    name: String,
}

impl Key {
    pub(super) fn new(profile: &LinuxSeccomp) -> Option<Self> {
        let mut bytes = FORMAT.as_bytes().to_vec();
        serde_json::to_writer(&mut bytes, profile).ok()?;
        bytes.push(b'\n');
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Some(Self {
            bytes,
            name: format!("{:016x}.bpf", hasher.finish()),
        })
    }
}

/// The program kept for a profile, if there is one that can be trusted.
pub(super) fn read(directory: &Path, key: &Key) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = open(directory.join(&key.name), flags, Mode::empty()).ok()?;
    let stat = fstat(fd.as_fd()).ok()?;
    let own = rustix::process::geteuid().as_raw();
    let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    if !regular || stat.st_uid != own || stat.st_mode & 0o022 != 0 {
        return None;
    }
    let mut content = Vec::new();
    File::from(fd).take(LONGEST).read_to_end(&mut content).ok()?;
    content.strip_prefix(key.bytes.as_slice()).map(<[u8]>::to_vec)
}

/// Keeps a program; that it cannot be kept costs time only.
pub(super) fn write(directory: &Path, key: &Key, program: &[u8]) {
    let beside = directory.join(format!("{}.{}", key.name, std::process::id()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fd) = open(&beside, flags, Mode::from_raw_mode(0o600)) else {
        return;
    };
    let mut file = File::from(fd);
    let written = file.write_all(&key.bytes).and_then(|()| file.write_all(program));
    if written.is_err() || rename(&beside, directory.join(&key.name)).is_err() {
        let _ = std::fs::remove_file(&beside);
    }
}

/// Makes the directory, for root alone.
pub(super) fn prepare(directory: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    Ok(directory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_profile_in_a_file_of_our_own_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let profile = |json: &str| Key::new(&serde_json::from_str(json).unwrap()).unwrap();
        let one = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
        let other = profile(r#"{"defaultAction":"SCMP_ACT_KILL"}"#);
        write(directory.path(), &one, b"program");
        assert_eq!(read(directory.path(), &one).as_deref(), Some(&b"program"[..]));
        assert_eq!(read(directory.path(), &other), None);
        // A hash that meets another's.
        std::fs::rename(
            directory.path().join(&one.name),
            directory.path().join(&other.name),
        )
        .unwrap();
        assert_eq!(read(directory.path(), &other), None);
        write(directory.path(), &one, b"program");
        let path = directory.path().join(&one.name);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o622)).unwrap();
        assert_eq!(read(directory.path(), &one), None);
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left beside"
        );
    }
}
