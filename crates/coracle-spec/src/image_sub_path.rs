//! A sub path of an image volume, looked at before it is mounted.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use crate::error::SpecError;

/// Looks whether `sub_path` leads to a directory or a file of the image whose root directory is given. A path
/// that leaves the image, by a link of its own too, is refused and not bent back to the root. Blocking.
///
/// # Errors
/// [`SpecError::ImageVolume`], in words for the pod's author.
pub fn check_image_sub_path(root: BorrowedFd<'_>, image: &str, sub_path: &str) -> Result<(), SpecError> {
    let refused = |reason: &str| SpecError::ImageVolume {
        image: image.to_owned(),
        reason: format!("sub path {sub_path:?} {reason}"),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = openat2(root, sub_path, flags, Mode::empty(), inside).map_err(|errno| match errno {
        Errno::NOENT => refused("does not exist in it"),
        Errno::NOTDIR => refused("goes through something that is no directory"),
        Errno::XDEV => refused("leads out of it"),
        Errno::LOOP => refused("has too many symbolic links"),
        Errno::NAMETOOLONG => refused("has a name that is too long"),
        errno => refused(&format!("cannot be looked at: {errno}")),
    })?;
    let kind = statat(&found, c"", AtFlags::EMPTY_PATH)
        .map(|stat| FileType::from_raw_mode(stat.st_mode))
        .map_err(|errno| refused(&format!("cannot be looked at: {errno}")))?;
    match kind {
        FileType::Directory | FileType::RegularFile => Ok(()),
        _ => Err(refused("is neither a directory nor a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use coracle_types::{Kind, Kinded as _};

    use super::*;

    #[test]
    fn what_is_inside_is_found_and_what_leaves_is_refused() {
        let image = tempfile::tempdir().expect("a directory");
        let at = |name: &str| image.path().join(name);
        std::fs::create_dir(at("models")).expect("made");
        std::fs::write(at("models/a"), "").expect("made");
        for (name, to) in [
            ("inside", "models"),
            ("outside", "../.."),
            ("absolute", "/etc"),
            ("loop", "loop"),
        ] {
            symlink(to, at(name)).expect("made");
        }
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("made");
        let root = std::fs::File::open(image.path()).expect("there");
        let check = |path: &str| check_image_sub_path(root.as_fd(), "i", path);
        for path in [
            "models",
            "models/",
            "./models/a",
            "inside",
            "inside/a",
            "models/../models",
        ] {
            assert!(check(path).is_ok(), "{path}");
        }
        for (path, word) in [
            ("none", "does not exist"),
            ("models/a/b", "no directory"),
            ("outside", "out of it"),
            ("absolute", "out of it"),
            ("..", "out of it"),
            ("inside/../../x", "out of it"),
            ("loop", "symbolic links"),
            ("socket", "neither"),
        ] {
            let error = check(path).expect_err(path);
            assert!(error.to_string().contains(word), "{path}: {error}");
            assert_eq!(error.kind(), Kind::ImageVolumeMountFailed);
        }
        drop(socket);
    }
}
