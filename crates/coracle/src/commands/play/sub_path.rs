//! A part of a volume, bound where the pod cannot change it: a link that a container puts in the way
//! between the look and the mount must lead nowhere.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind_recursive;

/// Binds `part` of `volume` to `target`; directories that are not there are made.
pub(super) fn bind(volume: &Path, part: &str, target: &Path) -> anyhow::Result<()> {
    let root =
        openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context("open the volume")?;
    let found = match look(&root, part) {
        Err(Errno::NOENT) => make(&root, part)?,
        other => other.context("a link in it leads out of the volume, or it is no path")?,
    };
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    if std::fs::metadata(&source)?.is_dir() {
        std::fs::create_dir(target)?;
    } else {
        File::create_new(target)?;
    }
    mount_bind_recursive(&source, target).with_context(|| format!("bind it to {}", target.display()))
}

/// Links within the volume are followed, none that leads out of it (openat2(2), Linux 5.6).
fn look(root: &impl AsFd, part: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, part, flags, Mode::empty(), resolve)
}

/// Directories get the mode of the volume, as the kubelet gives it: whoever may write there may write here.
fn make(root: &impl AsFd, part: &str) -> anyhow::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(fstat(root)?.st_mode & 0o777);
    let mut at = look(root, ".")?;
    for name in part.split('/').filter(|name| !name.is_empty() && *name != ".") {
        let is_new = match mkdirat(&at, name, Mode::from_raw_mode(0o750)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => bail!("make the directory {name:?}: {error}"),
        };
        at = look(&at, name).with_context(|| format!("open {name:?}"))?;
        if is_new {
            // Of a path alone no mode is changed, and mkdir(2) heeds the umask.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fchmod(openat(&at, ".", flags, Mode::empty())?, mode)?;
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_are_made_have_the_volumes_mode() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt as _;
        let volume = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        set_permissions(volume.path(), Permissions::from_mode(0o777)).unwrap();
        std::fs::create_dir(volume.path().join("old")).unwrap();
        set_permissions(volume.path().join("old"), Permissions::from_mode(0o700)).unwrap();
        make(&File::open(volume.path()).unwrap(), "old/new/deep").unwrap();
        assert_eq!(
            mode(&volume.path().join("old")),
            0o700,
            "what was there stays as it is"
        );
        assert_eq!(mode(&volume.path().join("old/new")), 0o777);
        assert_eq!(mode(&volume.path().join("old/new/deep")), 0o777);
    }

    #[test]
    fn a_link_out_of_the_volume_leads_nowhere() {
        let volume = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), volume.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("..", volume.path().join("up")).unwrap();
        std::fs::create_dir(volume.path().join("own")).unwrap();
        std::os::unix::fs::symlink("own", volume.path().join("within")).unwrap();
        let root = openat(CWD, volume.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert!(
            std::fs::metadata(volume.path().join("absolute/secret")).is_ok(),
            "by name it is reached"
        );
        for part in ["absolute/secret", "absolute", "up", "up/x", "../x"] {
            assert!(look(&root, part).is_err() && make(&root, part).is_err(), "{part}");
        }
        assert!(look(&root, "within").is_ok());
        make(&root, "new/deep").unwrap();
        assert!(volume.path().join("new/deep").is_dir());
    }
}
