//! Paths inside a container, resolved as if its root were `/` and used by descriptor only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat, statat};
use rustix::io::Errno;

use crate::procfs::is_procfs;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Directory,
    File,
}

/// The root directory of a container.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
}

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// The kernel's own limit for links in one path.
const MOST_LINKS: usize = 40;
/// Longest path, in parts, that is made anew.
const MOST_PARTS: usize = 1024;

impl Root {
    pub(crate) fn new(directory: OwnedFd) -> Self {
        Self { directory }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens a path with its links followed inside the root.
    pub(crate) fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        resolve(self.fd(), path, flags, IN_ROOT)
    }

    /// Opens a path that has no link in any part; `ELOOP` when it has.
    pub(crate) fn open_plain(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        resolve(self.fd(), path, flags, IN_ROOT | ResolveFlags::NO_SYMLINKS)
    }

    /// The mount point at `path`, made with the directories before it where it is missing. A link that
    /// leads nowhere is followed inside the root and its end is made.
    pub(crate) fn ensure(&self, path: &str, target: Target) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = match self.open(path, flags) {
            Ok(found) => found,
            Err(Errno::NOENT) => self.walk(path, target)?,
            Err(errno) => return Err(errno),
        };
        let directory = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::Directory;
        match (target, directory) {
            (Target::Directory, false) => Err(Errno::NOTDIR),
            (Target::File, true) => Err(Errno::ISDIR),
            _ => Ok(found),
        }
    }

    /// The directory that holds the last part of `path`, made when missing, and that part.
    pub(crate) fn ensure_parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Errno::INVAL);
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Ok((self.ensure(parent, Target::Directory)?, name))
    }

    /// Part by part: `..` goes back along the descriptors that were walked, so that a directory which is
    /// moved meanwhile cannot lead above the root.
    fn walk(&self, path: &str, target: Target) -> Result<OwnedFd, Errno> {
        let mut left: Vec<String> = parts(path);
        let mut walked = vec![rustix::io::fcntl_dupfd_cloexec(&self.directory, 3)?];
        let mut links = 0;
        while let Some(part) = left.pop() {
            if left.len() + walked.len() > MOST_PARTS {
                return Err(Errno::NAMETOOLONG);
            }
            if part == ".." {
                if walked.len() > 1 {
                    walked.pop();
                }
                continue;
            }
            let here = walked.last().expect("the root is never taken off").as_fd();
            let last = left.is_empty();
            let next = step(here, &part, if last { target } else { Target::Directory })?;
            match next {
                Next::At(fd) => walked.push(fd),
                Next::Link(to) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if to.starts_with('/') {
                        walked.truncate(1);
                    }
                    left.extend(parts(&to));
                }
            }
        }
        walked.pop().ok_or(Errno::NOENT)
    }
}

/// Parts in reverse, without empty ones and `.`.
fn parts(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|part| !part.is_empty() && *part != ".")
        .map(str::to_owned)
        .collect()
}

enum Next {
    At(OwnedFd),
    Link(String),
}

fn step(here: BorrowedFd<'_>, part: &str, target: Target) -> Result<Next, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let one = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..3 {
        match resolve(here, part, flags, one) {
            Ok(fd) => {
                let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
                if kind != FileType::Symlink {
                    return Ok(Next::At(fd));
                }
                // As text the links of /proc/<pid> would lead somewhere inside the root, which nobody meant.
                if !matches!(part, "self" | "thread-self") && is_procfs(fd.as_fd())? {
                    return Err(Errno::LOOP);
                }
                let to = readlinkat(&fd, c"", Vec::new())?;
                return to.into_string().map(Next::Link).map_err(|_| Errno::ILSEQ);
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let made = match target {
            Target::Directory => mkdirat(here, part, Mode::from_raw_mode(0o755)),
            Target::File => {
                let create =
                    OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
                openat2(here, part, create, Mode::from_raw_mode(0o644), one).map(drop)
            }
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::NOENT)
}

/// openat2 asks for another try when something was renamed while `..` was resolved.
fn resolve(from: BorrowedFd<'_>, path: &str, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    for _ in 0..128 {
        match openat2(from, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Whether a descriptor refers to the device `major:minor` of the wanted type.
pub(crate) fn is_device(fd: BorrowedFd<'_>, kind: FileType, device: (u32, u32)) -> Result<bool, Errno> {
    let stat = statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == kind
        && rustix::fs::major(stat.st_rdev) == device.0
        && rustix::fs::minor(stat.st_rdev) == device.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::open;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("root")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(outer.path().join("root"), flags, Mode::empty()).unwrap();
        (outer, Root::new(directory))
    }

    #[test]
    fn whatever_an_image_links_is_made_inside_its_root() {
        let (outer, root) = root();
        let inside = outer.path().join("root");
        symlink("/", inside.join("absolute")).unwrap();
        symlink("../../../..", inside.join("up")).unwrap();
        symlink("nowhere/yet", inside.join("dangling")).unwrap();
        symlink("/up/absolute/dangling", inside.join("chain")).unwrap();
        for path in [
            "/absolute/a",
            "up/b/c",
            "/dangling",
            "/chain/d",
            "/../../e",
            "/x/../../f",
        ] {
            root.ensure(path, Target::Directory).unwrap();
        }
        for made in ["a", "b/c", "nowhere/yet/d", "e", "f"] {
            assert!(inside.join(made).is_dir(), "{made}");
        }
        let beside: Vec<_> = std::fs::read_dir(outer.path()).unwrap().collect();
        assert_eq!(beside.len(), 1, "only the root lies in the outer directory");
    }

    #[test]
    fn a_loop_ends_and_kinds_are_kept_apart() {
        let (outer, root) = root();
        let inside = outer.path().join("root");
        symlink("two", inside.join("one")).unwrap();
        symlink("one", inside.join("two")).unwrap();
        assert_eq!(root.ensure("/one/x", Target::Directory).err(), Some(Errno::LOOP));
        root.ensure("/file", Target::File).unwrap();
        assert_eq!(root.ensure("/file", Target::Directory).err(), Some(Errno::NOTDIR));
        assert_eq!(root.ensure("/", Target::File).err(), Some(Errno::ISDIR));
        assert_eq!(root.open_plain("/one", OFlags::PATH).err(), Some(Errno::LOOP));
        assert!(root.ensure_parent("/").is_err() && root.ensure_parent("/a/..").is_err());
    }
}
