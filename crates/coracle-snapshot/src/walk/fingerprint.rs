//! What a tree looks like by its names and inodes, in two numbers: that it was changed is seen without reading
//! any file.

use std::ffi::{CStr, OsStr};
use std::os::fd::BorrowedFd;

use rustix::fs::FileType;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Visit, WalkError, walk};
use crate::stat::Stat;

/// Of a tree that nobody changes. Neither the order in which a file system lists names nor the time of the
/// last change of an inode counts: a copy that keeps modification times has the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// All names, the root's among them.
    names: u64,
    /// The sum of a digest a name: of its path, and of its inode's type, mode, owner, size and time.
    sum: u64,
}

impl Fingerprint {
    /// In words, what a tree with this fingerprint lacks of one that had `before`.
    pub(crate) fn difference(&self, before: &Self) -> Option<String> {
        match self.names.cmp(&before.names) {
            _ if self == before => None,
            std::cmp::Ordering::Equal => Some(format!(
                "of its {} files and directories one was changed",
                self.names
            )),
            _ => Some(format!(
                "it has {} files and directories and was unpacked with {}",
                self.names, before.names
            )),
        }
    }
}

/// Looks at every name of the tree `name`.
pub(crate) fn fingerprint(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Fingerprint, WalkError> {
    let mut printer = Printer::default();
    walk(parent, name, &mut printer).map(|()| printer.fingerprint)
}

#[derive(Default)]
struct Printer {
    fingerprint: Fingerprint,
    /// Digests of the paths of the directories that the walk is in.
    above: Vec<[u8; 32]>,
}

impl Printer {
    fn add(&mut self, mut path: Sha256, stat: &Stat) {
        let size = match stat.kind {
            // As large as its file system makes it.
            FileType::Directory => 0,
            _ => stat.size,
        };
        path.update(stat.kind.as_raw_mode().to_le_bytes());
        for number in [stat.mode, stat.uid, stat.gid, stat.device.0, stat.device.1] {
            path.update(number.to_le_bytes());
        }
        path.update(size.to_le_bytes());
        path.update(stat.mtime.tv_sec.to_le_bytes());
        path.update(stat.mtime.tv_nsec.to_le_bytes());
        let digest: [u8; 32] = path.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let fingerprint = &mut self.fingerprint;
        fingerprint.names += 1;
        fingerprint.sum = fingerprint
            .sum
            .wrapping_add(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }

    /// The root is where it is, whatever its name.
    fn path(&self, name: &CStr) -> Sha256 {
        let mut path = Sha256::new();
        if let Some(above) = self.above.last() {
            path.update(above);
            path.update(name.to_bytes_with_nul());
        }
        path
    }
}

impl Visit for Printer {
    fn enter(&mut self, _: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
        let path = self.path(name);
        self.add(path.clone(), stat);
        self.above.push(path.finalize().into());
        Ok(())
    }

    fn other(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let stat = Stat::at(directory, name)?;
        self.add(self.path(name), &stat);
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<(), Errno> {
        self.above.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn of(place: &Path) -> Fingerprint {
        let parent = fs::File::open(place).unwrap();
        fingerprint(parent.as_fd(), OsStr::new("tree")).unwrap()
    }

    fn make(place: &Path) {
        fs::create_dir_all(place.join("tree/a/b")).unwrap();
        fs::write(place.join("tree/a/b/file"), "content").unwrap();
        fs::write(place.join("tree/a/other"), "").unwrap();
        symlink("target", place.join("tree/link")).unwrap();
    }

    #[test]
    fn every_change_of_a_tree_is_seen_and_nothing_else() {
        type Change = fn(&Path);
        let changes: [(&str, Change, &str); 6] = [
            ("none", |_| {}, ""),
            ("read", |tree| drop(fs::read(tree.join("a/b/file"))), ""),
            (
                "removed",
                |tree| fs::remove_file(tree.join("a/other")).unwrap(),
                "with 6",
            ),
            ("added", |tree| fs::write(tree.join("new"), "").unwrap(), "has 7"),
            (
                "changed",
                |tree| fs::write(tree.join("a/b/file"), "CONTENT").unwrap(),
                "one was changed",
            ),
            (
                "moved",
                |tree| fs::rename(tree.join("a/other"), tree.join("a/b/other")).unwrap(),
                "one was changed",
            ),
        ];
        for (name, change, words) in changes {
            let place = tempfile::tempdir().unwrap();
            make(place.path());
            let before = of(place.path());
            change(&place.path().join("tree"));
            let difference = of(place.path()).difference(&before).unwrap_or_default();
            assert_eq!(difference.is_empty(), words.is_empty(), "{name}: {difference}");
            assert!(difference.contains(words), "{name}: {difference}");
        }
    }
}
