//! Layers as tar files: from entries, from the host's files, and such as no builder would make.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Blob;

/// How a layer's tar file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// The blob of a tar file.
    #[must_use]
    pub fn blob(self, tar: Vec<u8>) -> Blob {
        const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
        let written = "writing into memory does not fail";
        match self {
            Self::None => Blob::new(LAYER, tar),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).expect(written);
                Blob::new(&format!("{LAYER}+gzip"), encoder.finish().expect(written))
            }
            Self::Zstd => {
                let packed = zstd::encode_all(tar.as_slice(), 1).expect(written);
                Blob::new(&format!("{LAYER}+zstd"), packed)
            }
        }
    }
}

/// What an entry of a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file with this content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(String),
    /// Another name of this entry.
    HardLink(String),
    /// A character device.
    Device {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One entry, exactly as it goes into the tar file: nothing is checked or mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, with or without leading slash, `..` and whatever else.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Extended attributes, as PAX `SCHILY.xattr.*` records.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// Root's, without extended attributes.
    #[must_use]
    pub fn new(path: &str, mode: u32, kind: EntryKind) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            mode,
            owner: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// With another owner and group.
    #[must_use]
    pub fn owned_by(mut self, user: u64, group: u64) -> Self {
        self.owner = (user, group);
        self
    }

    /// With one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// Builds the tar file of a layer.
#[derive(Debug, Default)]
pub struct Layer {
    entries: Vec<Entry>,
    present: BTreeSet<PathBuf>,
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry as it is, without its directories.
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entries.push(entry);
        self
    }

    /// Adds an entry, with the directories above it where they are not there yet (0755, root's).
    fn put(&mut self, entry: Entry) {
        let path = PathBuf::from(entry.path.trim_start_matches('/'));
        let mut above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        above.reverse();
        for directory in above {
            if self.present.insert(directory.to_owned()) {
                self.entries.push(Entry::new(
                    &directory.to_string_lossy(),
                    0o755,
                    EntryKind::Directory,
                ));
            }
        }
        let name = path.to_string_lossy().into_owned();
        self.present.insert(path);
        self.entries.push(Entry { path: name, ..entry });
    }

    /// A file of root's.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.put(Entry::new(path, mode, EntryKind::File(content.into())));
        self
    }

    /// A directory of root's.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.put(Entry::new(path, mode, EntryKind::Directory));
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.put(Entry::new(path, 0o777, EntryKind::Symlink(target.to_owned())));
        self
    }

    /// A hard link to an entry of this layer.
    #[must_use]
    pub fn hard_link(mut self, path: &str, target: &str) -> Self {
        let target = target.trim_start_matches('/').to_owned();
        self.put(Entry::new(path, 0o755, EntryKind::HardLink(target)));
        self
    }

    /// Takes away what lower layers have at `path` (layer.md, "Whiteouts").
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.file(&format!("{directory}/.wh.{name}"), 0o644, "")
    }

    /// Hides what lower layers have inside a directory (layer.md, "Opaque Whiteout").
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.file(
            &format!("{}/.wh..wh..opq", directory.trim_end_matches('/')),
            0o644,
            "",
        )
    }

    /// Copies a file of the host, following links.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn host_file(mut self, from: &Path, to: &str) -> Result<Self> {
        if self.present.contains(Path::new(to.trim_start_matches('/'))) {
            return Ok(self);
        }
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = std::fs::metadata(from)?.permissions().mode() & 0o7777;
        self.put(Entry::new(to, mode, EntryKind::File(content)));
        Ok(self)
    }

    /// Copies a program of the host with the shared libraries that it is linked with.
    ///
    /// # Errors
    /// When it is not there, or ldd fails.
    pub fn host_program(self, from: &Path, to: &str) -> Result<Self> {
        let mut layer = self.host_file(from, to)?;
        for library in libraries(from)? {
            layer = layer.host_file(&library, &library.to_string_lossy())?;
        }
        Ok(layer)
    }

    /// Copies a directory of the host with all that is below it; links stay links.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn host_tree(mut self, from: &Path, to: &str) -> Result<Self> {
        let entries = std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let target = format!("{to}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self = self.host_tree(&entry.path(), &target)?;
            } else if kind.is_symlink() {
                self = self.symlink(&target, &std::fs::read_link(entry.path())?.to_string_lossy());
            } else if kind.is_file() {
                self = self.host_file(&entry.path(), &target)?;
            }
        }
        Ok(self)
    }

    /// The tar file.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        let written = "writing into memory does not fail";
        let mut archive = tar::Builder::new(Vec::new());
        for entry in self.entries {
            append(&mut archive, &entry).expect(written);
        }
        archive.into_inner().expect(written)
    }
}

/// Writes name and link as bytes into the header, past the checks of the `tar` crate; what does not
/// fit there goes into a PAX record.
fn append(archive: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    let (kind, link, content): (_, &str, &[u8]) = match &entry.kind {
        EntryKind::File(content) => (tar::EntryType::Regular, "", content),
        EntryKind::Directory => (tar::EntryType::Directory, "", &[]),
        EntryKind::Symlink(target) => (tar::EntryType::Symlink, target, &[]),
        EntryKind::HardLink(target) => (tar::EntryType::Link, target, &[]),
        EntryKind::Device { major, minor } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            (tar::EntryType::Char, "", &[])
        }
        EntryKind::Fifo => (tar::EntryType::Fifo, "", &[]),
    };
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    for (field, text) in [("path", entry.path.as_str()), ("linkpath", link)] {
        if text.len() > 100 {
            records.push((field.to_owned(), text.as_bytes().to_vec()));
        }
    }
    records.extend(
        entry
            .xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())),
    );
    if !records.is_empty() {
        archive.append_pax_extensions(
            records
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_slice())),
        )?;
    }
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    for (field, text) in [(&mut old.name, entry.path.as_str()), (&mut old.linkname, link)] {
        let length = text.len().min(100);
        field[..length].copy_from_slice(&text.as_bytes()[..length]);
    }
    header.set_cksum();
    archive.append(&header, content)
}

/// What ldd(1) says a program is linked with.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd (package libc-bin)")?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || text.contains("not a dynamic executable"),
        "ldd {}: {text}",
        program.display()
    );
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)" or "/lib64/ld-linux-x86-64.so.2 (0x..)".
    Ok(text
        .lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
            let path = path.split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect())
}
