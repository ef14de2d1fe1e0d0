//! The instance's name, had by one daemon at a time whatever its directories are.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};

/// Where a machine's daemons tell each other their names; on tmpfs. No `/run/lock`: everybody writes there, so
/// anybody could hold the lock first, or put a link in its place.
pub(super) const DIRECTORY: &str = "/run/coracle-instances";

/// Has the name for as long as the claim is there: another daemon of that name, on whatever directories, would take
/// this one's namespaces, links and rules for leftovers.
///
/// # Errors
/// When another daemon has it; when the directory is somebody else's or cannot be used.
pub(super) fn claim(directory: &Path, instance: &str) -> anyhow::Result<Claim> {
    let name = format!("{instance}.lock");
    let path = directory.join(&name);
    loop {
        let file = open(directory, &name).with_context(|| format!("open {}", path.display()))?;
        match file.try_lock() {
            // Given up for ever between the opening and the lock: it keeps nobody away any more.
            Ok(()) if file.metadata().is_ok_and(|found| found.nlink() == 0) => {}
            Ok(()) => return Ok(Claim { file, path }),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "a daemon of the instance {instance} runs already: stop it, or give this one another name with --instance"
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
    }
}

/// The name, had until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// Lets go of a name that nobody will have again.
    pub(super) fn give_up(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the lock of an instance that is gone stays");
        }
        drop(self.file);
    }
}

fn open(directory: &Path, name: &str) -> io::Result<File> {
    match rustix::fs::mkdir(directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(
        directory,
        common | OFlags::DIRECTORY | OFlags::RDONLY,
        Mode::empty(),
    )?;
    let found = rustix::fs::fstat(&directory)?;
    if found.st_uid != rustix::process::geteuid().as_raw() {
        let message = format!("its directory is user {}'s: remove it", found.st_uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if found.st_mode & 0o077 != 0 {
        rustix::fs::fchmod(&directory, Mode::RWXU)?;
    }
    let flags = common | OFlags::CREATE | OFlags::RDWR;
    Ok(rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_name_is_had_by_one_and_is_free_after_it() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("instances");
        let held = claim(&directory, "one").unwrap();
        let refused = claim(&directory, "one").unwrap_err().to_string();
        assert!(refused.contains("the instance one runs already"), "{refused}");
        claim(&directory, "another").unwrap();
        drop(held);
        let held = claim(&directory, "one").unwrap();
        held.give_up();
        assert!(!directory.join("one.lock").exists() && directory.join("another.lock").exists());
        claim(&directory, "one").unwrap();
    }

    #[test]
    fn nobody_else_reaches_the_lock_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("instances");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let held = claim(&directory, "one").unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(held.file.metadata().unwrap().mode() & 0o777, 0o600);

        let victim = place.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, directory.join("linked.lock")).unwrap();
        let refused = format!("{:#}", claim(&directory, "linked").unwrap_err());
        assert!(refused.contains("linked.lock"), "{refused}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        // And not what a lock of that name holds already, either.
        fs::write(directory.join("full.lock"), "kept").unwrap();
        claim(&directory, "full").unwrap();
        assert_eq!(fs::read_to_string(directory.join("full.lock")).unwrap(), "kept");

        let link = place.path().join("link");
        symlink(&directory, &link).unwrap();
        claim(&link, "one").unwrap_err();
    }
}
