//! What the tests share: archives made byte by byte, and trees read back for comparison.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use coracle_types::Digest;
use sha2::{Digest as _, Sha256};

/// An entry to be written.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) link: Vec<u8>,
    pub(crate) data: Vec<u8>,
    /// Size field where it shall differ from the data.
    pub(crate) size: Option<u64>,
    pub(crate) device: (u32, u32),
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            path,
            flag,
            mode,
            link,
            data,
            ..
        } = self;
        let (flag, path, link) = (char::from(*flag), path.escape_ascii(), link.escape_ascii());
        write!(f, "{flag} {mode:o} {path} -> {link} [{}]", data.len())?;
        self.pax
            .iter()
            .try_for_each(|(key, value)| write!(f, " {key}={}", value.escape_ascii()))
    }
}

impl Item {
    pub(crate) fn new(flag: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            flag,
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: (1_700_000_000, 0),
            link: Vec::new(),
            data: Vec::new(),
            size: None,
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub(crate) fn directory(path: impl AsRef<[u8]>, mode: u32) -> Self {
        Self {
            mode,
            ..Self::new(b'5', path)
        }
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self {
            data: data.as_ref().to_vec(),
            ..Self::new(b'0', path)
        }
    }

    pub(crate) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            mode: 0o777,
            ..Self::new(b'2', path)
        }
    }

    pub(crate) fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(b'1', path)
        }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Appends this entry to an archive.
    pub(crate) fn write(&self, archive: &mut Vec<u8>) {
        let mut pax = self.pax.clone();
        let mut path = self.path.clone();
        if path.len() > 100 {
            pax.push(("path".into(), std::mem::replace(&mut path, b"long".to_vec())));
        }
        let mut link = self.link.clone();
        if link.len() > 100 {
            pax.push(("linkpath".into(), std::mem::replace(&mut link, b"long".to_vec())));
        }
        if self.mtime.1 != 0 || self.mtime.0 < 0 {
            let text = format!("{}.{:09}", self.mtime.0, self.mtime.1);
            pax.push(("mtime".into(), text.into_bytes()));
        }
        if !pax.is_empty() {
            let records: Vec<u8> = pax
                .iter()
                .flat_map(|(key, value)| pax_record(key, value))
                .collect();
            Self {
                data: records,
                ..Self::new(b'x', "pax")
            }
            .write(archive);
        }
        archive.extend_from_slice(&header(self, &path, &link));
        archive.extend_from_slice(&self.data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
}

fn header(item: &Item, path: &[u8], link: &[u8]) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.set_mode(item.mode);
    header.set_uid(item.owner.0.into());
    header.set_gid(item.owner.1.into());
    header.set_mtime(u64::try_from(item.mtime.0).unwrap_or(0));
    header.set_size(item.size.unwrap_or(item.data.len() as u64));
    header.set_entry_type(tar::EntryType::new(item.flag));
    let ustar = header.as_ustar_mut().expect("made as ustar");
    ustar.name[..path.len()].copy_from_slice(path);
    ustar.linkname[..link.len()].copy_from_slice(link);
    ustar.set_device_major(item.device.0);
    ustar.set_device_minor(item.device.1);
    header.set_cksum();
    *header.as_bytes()
}

pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

pub(crate) fn archive(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        item.write(&mut bytes);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}

/// A file as a tree has it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: char,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) device: u64,
    /// Content or link target.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of the same inode.
    pub(crate) same_as: Option<PathBuf>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            mode,
            owner,
            mtime,
            device,
            content,
            xattrs,
            same_as,
        } = self;
        let shown = content[..content.len().min(40)].escape_ascii();
        write!(
            f,
            "{kind} {mode:o} {owner:?} {mtime:?} {device} [{}] {shown} {same_as:?}",
            content.len()
        )?;
        xattrs
            .iter()
            .try_for_each(|(name, value)| write!(f, " {}={}", name.escape_ascii(), value.escape_ascii()))
    }
}

pub(crate) type Tree = BTreeMap<PathBuf, Node>;

/// Reads all below `root`, the root itself as the empty path; overlay's own marks are left out.
pub(crate) fn read_tree(root: &Path) -> Tree {
    let (mut tree, mut inodes) = (Tree::new(), BTreeMap::new());
    let mut ahead = vec![PathBuf::new()];
    while let Some(path) = ahead.pop() {
        let full = if path.as_os_str().is_empty() {
            root.join(".")
        } else {
            root.join(&path)
        };
        let meta = fs::symlink_metadata(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
        let kind = meta.file_type();
        let (kind, content) = if kind.is_dir() {
            let mut names: Vec<PathBuf> = fs::read_dir(&full)
                .expect("readable")
                .map(|entry| path.join(entry.expect("readable").file_name()))
                .collect();
            names.sort();
            ahead.extend(names.into_iter().rev());
            ('d', Vec::new())
        } else if kind.is_symlink() {
            (
                'l',
                fs::read_link(&full)
                    .expect("readable")
                    .into_os_string()
                    .into_encoded_bytes(),
            )
        } else if kind.is_file() {
            ('f', fs::read(&full).expect("readable"))
        } else if kind.is_char_device() {
            ('c', Vec::new())
        } else if kind.is_block_device() {
            ('b', Vec::new())
        } else {
            ('p', Vec::new())
        };
        let same_as = (kind != 'd' && meta.nlink() > 1).then(|| {
            inodes
                .entry((meta.dev(), meta.ino()))
                .or_insert_with(|| path.clone())
                .clone()
        });
        let node = Node {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: meta.rdev(),
            content,
            xattrs: xattrs(&full),
            same_as,
        };
        tree.insert(path, node);
    }
    tree
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0_u8; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."))
        .map(|name| {
            let mut value = vec![0_u8; 65536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]);
            value.truncate(length.expect("listed"));
            (name.to_vec(), value)
        })
        .collect();
    found.sort();
    found
}

/// A directory for much work: in memory where there is such a place and it takes attributes (Linux 6.6).
pub(crate) fn fast_directory() -> tempfile::TempDir {
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(memory.path(), "user.probe", b"1", flags).is_ok() {
            rustix::fs::removexattr(memory.path(), "user.probe").expect("just set");
            return memory;
        }
    }
    tempfile::tempdir().expect("writable")
}
