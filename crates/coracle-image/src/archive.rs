//! Files of an image archive by name: a directory, or a tar that is read where it lies.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::Error;
use crate::manifest::MAX_DOCUMENT;
use crate::words::{cut, one_line};

/// Most files that an archive of images may have: layers and documents of many images.
const MAX_FILES: usize = 100_000;
/// Longest name of one.
const MAX_NAME: usize = 512;
/// Most bytes of what stands before one file's content: headers, long names, extended attributes.
const MAX_HEADERS: usize = 1 << 20;
const BUFFER: usize = 128 << 10;
/// Characters of a name that a message quotes.
const SHOWN: usize = 80;

/// An archive that is open. Its files are found by plain relative names; nothing is unpacked.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Directory(OwnedFd),
    Tar {
        file: Arc<File>,
        /// Where the content of each file lies, and its length.
        places: HashMap<PathBuf, (u64, u64)>,
    },
}

impl Archive {
    /// Opens a directory or an uncompressed tar file; blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Self::of(Self::open_file_at(path)?, path)
    }

    /// Opens what may be an archive, without a look into it; blocks.
    pub(crate) fn open_file_at(path: &Path) -> Result<File, Error> {
        let refused = |reason: String| Error::Archive {
            path: path.to_owned(),
            reason,
        };
        // NONBLOCK keeps a FIFO from blocking; it means nothing for the files that are accepted.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let opened = opened.map_err(|errno| refused(format!("it cannot be opened: {errno}")))?;
        Ok(File::from(opened))
    }

    /// The same of a file or directory that is open; `path` is what it is called.
    pub(crate) fn of(file: File, path: &Path) -> Result<Self, Error> {
        let refused = |reason: String| Error::Archive {
            path: path.to_owned(),
            reason,
        };
        let metadata = file.metadata().map_err(|error| refused(error.to_string()))?;
        let files = if metadata.is_dir() {
            Files::Directory(file.into())
        } else if metadata.is_file() {
            let places = places(&file).map_err(refused)?;
            Files::Tar {
                file: Arc::new(file),
                places,
            }
        } else {
            return Err(refused("it is neither a directory nor a file".to_owned()));
        };
        Ok(Self {
            path: path.to_owned(),
            files,
        })
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Error {
        Error::Archive {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// Whether there is a file of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.open_file(name).is_ok()
    }

    /// A small file, whole.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let failed = |error: io::Error| self.refused(format!("{:?}: {error}", cut(name, SHOWN)));
        let (file, size) = self.open_file(name).map_err(failed)?;
        if size > MAX_DOCUMENT {
            return Err(self.refused(format!(
                "{:?} is longer than {MAX_DOCUMENT} bytes",
                cut(name, SHOWN)
            )));
        }
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// A large file to be streamed, with its length.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<(Box<dyn BufRead + Send>, u64)> {
        let wanted = plain(Path::new(name)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the name leads out of the archive")
        })?;
        match &self.files {
            Files::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = File::from(rustix::fs::openat2(root, &wanted, flags, Mode::empty(), resolve)?);
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "it is not a regular file",
                    ));
                }
                Ok((Box::new(BufReader::with_capacity(BUFFER, file)), metadata.len()))
            }
            Files::Tar { file, places } => {
                let (offset, size) = *places
                    .get(&wanted)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the archive does not have it"))?;
                let range = Range {
                    file: Arc::clone(file),
                    offset,
                    left: size,
                };
                Ok((Box::new(BufReader::with_capacity(BUFFER, range)), size))
            }
        }
    }
}

/// A relative path without `.`; `None` when it is absolute, leads up, or is empty.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!plain.as_os_str().is_empty()).then_some(plain)
}

/// Where each regular file of a tar lies. Hard and symbolic links are followed by name once all
/// files are known (`docker save` links equal layers).
fn places(file: &File) -> Result<HashMap<PathBuf, (u64, u64)>, String> {
    let mut first = [0_u8; 6];
    let count = file.read_at(&mut first, 0).map_err(|error| error.to_string())?;
    if first[..count].starts_with(&[0x1f, 0x8b])
        || first[..count].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || first[..count].starts_with(b"\xfd7zXZ\0")
    {
        return Err("it is compressed: unpack it to a tar first (gunzip, zstd -d, unxz)".to_owned());
    }
    let left = Cell::new(MAX_HEADERS);
    let mut archive = tar::Archive::new(Headers { file, left: &left });
    // The parser quotes what it read, whatever that is.
    let unreadable = |error: io::Error| format!("it is no tar: {}", one_line(&error.to_string(), 120));
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut places = HashMap::new();
    let mut links = Vec::new();
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        left.set(MAX_HEADERS);
        let path = entry.path().map_err(unreadable)?.into_owned();
        let Some(path) = plain(&path) else { continue };
        if path.as_os_str().len() > MAX_NAME || places.len() + links.len() >= MAX_FILES {
            return Err(format!(
                "it has more than {MAX_FILES} files, or names longer than {MAX_NAME}"
            ));
        }
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (begin, size) = (entry.raw_file_position(), entry.size());
            if begin.checked_add(size).is_none_or(|end| end > length) {
                return Err(format!(
                    "it is cut off within {:?}",
                    cut(&path.to_string_lossy(), SHOWN)
                ));
            }
            places.insert(path, (begin, size));
        } else if kind.is_hard_link() || kind.is_symlink() {
            let target = entry
                .link_name()
                .map_err(unreadable)?
                .map(|name| name.into_owned());
            let base = if kind.is_symlink() { path.parent() } else { None };
            let target = target.and_then(|target| normal(base, &target));
            links.extend(target.map(|target| (path, target)));
        }
    }
    if places.is_empty() {
        return Err("it has no files: is it a tar of an image?".to_owned());
    }
    for (path, target) in links {
        if let Some(place) = places.get(&target).copied() {
            places.entry(path).or_insert(place);
        }
    }
    Ok(places)
}

/// A tar's headers, which its parser keeps in memory as long as they say they are: no more than is left is
/// read. Contents are sought over.
struct Headers<'a> {
    file: &'a File,
    left: &'a Cell<usize>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            let message = format!("the headers of one file are longer than {MAX_HEADERS} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let most = left.min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        self.left.set(left - count);
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// `target` below `base` with its `..` worked out; `None` when it leads out of the archive.
fn normal(base: Option<&Path>, target: &Path) -> Option<PathBuf> {
    let mut whole = base.map(Path::to_owned).unwrap_or_default();
    for component in target.components() {
        match component {
            Component::Normal(part) => whole.push(part),
            Component::CurDir => {}
            Component::ParentDir if whole.pop() => {}
            _ => return None,
        }
    }
    Some(whole)
}

/// A part of a file, read without moving the file's position.
struct Range {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_archive_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("layout");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(inside.join("good"), "y").unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", inside.join("absolute")).unwrap();
        let archive = Archive::open(&inside).unwrap();
        assert_eq!(archive.read("good").unwrap(), b"y");
        assert_eq!(archive.read("./good").unwrap(), b"y");
        for bad in ["../secret", "link", "absolute", "/etc/passwd", "", ".", "good/.."] {
            assert!(archive.read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tar_is_read_where_it_lies_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, "./d/one", &b"first"[..])
            .unwrap();
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "e/two", "../d/one").unwrap();
        builder.into_inner().unwrap();
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.read("d/one").unwrap(), b"first");
        assert_eq!(archive.read("e/two").unwrap(), b"first");
        assert!(!archive.has("d/three"));
        std::fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        let error = Archive::open(&path).unwrap_err().to_string();
        assert!(error.contains("gunzip"), "{error}");
    }

    #[test]
    fn a_name_of_a_gibibyte_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        for kind in [
            tar::EntryType::GNULongName,
            tar::EntryType::GNULongLink,
            tar::EntryType::XHeader,
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 30);
            header.set_cksum();
            std::fs::write(&path, header.as_bytes()).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(2 << 30).unwrap();
            let error = Archive::open(&path).unwrap_err().to_string();
            assert!(error.contains("longer than 1048576 bytes"), "{kind:?}: {error}");
        }
    }
}
