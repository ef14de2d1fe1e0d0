//! A merged tree as a layer's archive: PAX, in the order of names, all that a layer can say of a file.
//!
//! Everything is reached by descriptors from the tree's root and no symbolic link is followed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};

/// Directories inside each other that are followed.
const DEEPEST: usize = 1000;
/// Longest value of an extended attribute (xattr(7)) and longest list of their names.
const MAX_ATTRIBUTE: usize = 64 << 10;
const BUFFER: usize = 128 << 10;
/// Longest name that a ustar header holds, and largest number in its shorter fields.
const NAME: usize = 100;
const SMALL: u64 = 0o7_777_777;

/// Writes the tree below `root`; blocks.
pub(super) fn write(root: OwnedFd, out: &mut impl Write) -> io::Result<()> {
    let mut writer = TreeWriter {
        tar: tar::Builder::new(out),
        links: HashMap::new(),
    };
    // A mount's descriptor is one of a path (O_PATH), which does not list.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(&root, ".", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&root)?;
    writer.entry(root.as_fd(), OsStr::new("."), b"./", &stat)?;
    let mut stack = vec![Level::read(root, Vec::new())?];
    while let Some(level) = stack.last_mut() {
        let Some(name) = level.names.pop() else {
            stack.pop();
            continue;
        };
        let stat = statat(&level.directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut path = level.path.clone();
        path.extend_from_slice(name.as_bytes());
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            writer.entry(level.directory.as_fd(), &name, &path, &stat)?;
            continue;
        }
        path.push(b'/');
        writer.entry(level.directory.as_fd(), &name, &path, &stat)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = openat(&level.directory, &name, flags, Mode::empty())?;
        if stack.len() >= DEEPEST {
            return Err(io::Error::other(format!("directories lie deeper than {DEEPEST}")));
        }
        stack.push(Level::read(below, path)?);
    }
    writer.tar.finish()
}

/// A directory on the way down.
struct Level {
    directory: OwnedFd,
    /// Left to do, the last first.
    names: Vec<OsString>,
    path: Vec<u8>,
}

impl Level {
    fn read(directory: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_by(|a, b| b.cmp(a));
        Ok(Self {
            directory,
            names,
            path,
        })
    }
}

struct TreeWriter<W: Write> {
    tar: tar::Builder<W>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> TreeWriter<W> {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &OsStr, path: &[u8], stat: &Stat) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut link = Vec::new();
        let mut entry_type = match kind {
            FileType::RegularFile => tar::EntryType::Regular,
            FileType::Directory => tar::EntryType::Directory,
            FileType::Symlink => tar::EntryType::Symlink,
            FileType::CharacterDevice => tar::EntryType::Char,
            FileType::BlockDevice => tar::EntryType::Block,
            FileType::Fifo => tar::EntryType::Fifo,
            // A socket is no file without the process that listens.
            _ => return Ok(()),
        };
        if kind == FileType::Symlink {
            link = readlinkat(directory, name, Vec::new())?.into_bytes();
        } else if kind != FileType::Directory && stat.st_nlink > 1 {
            match self.links.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => {
                    entry_type = tar::EntryType::Link;
                    link.clone_from(first);
                }
                None => {
                    self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
                }
            }
        }
        let regular = entry_type == tar::EntryType::Regular;
        let size = if regular {
            u64::try_from(stat.st_size).unwrap_or(0)
        } else {
            0
        };
        let mut pax = Pax::default();
        let header = header(entry_type, (path, link.as_slice()), stat, size, &mut pax)?;
        if entry_type != tar::EntryType::Link {
            attributes(directory, name, &mut pax)?;
        }
        if !pax.0.is_empty() {
            let records = pax.0.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(records)?;
        }
        if !regular {
            return self.tar.append(&header, io::empty());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(directory, name, flags, Mode::empty())?);
        self.tar
            .append(&header, BufReader::with_capacity(BUFFER, file).take(size))
    }
}

/// Records before a header, for what does not fit into it (POSIX pax, "Extended header").
#[derive(Default)]
struct Pax(Vec<(String, Vec<u8>)>);

impl Pax {
    fn add(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// A number, or 0 in the header where it needs a record.
    fn number(&mut self, key: &str, value: u64, limit: u64) -> u64 {
        if value <= limit {
            return value;
        }
        self.add(key, value.to_string());
        0
    }
}

fn header(
    entry_type: tar::EntryType,
    (path, link): (&[u8], &[u8]),
    stat: &Stat,
    size: u64,
    pax: &mut Pax,
) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(entry_type);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(pax.number("uid", u64::from(stat.st_uid), SMALL));
    header.set_gid(pax.number("gid", u64::from(stat.st_gid), SMALL));
    // The size stands in the header too, since readers skip by it: eleven digits, 8 GiB.
    let limit = 0o77_777_777_777;
    if size > limit {
        return Err(io::Error::other(format!(
            "{}: a file of {size} bytes is larger than an archive's entry",
            String::from_utf8_lossy(path)
        )));
    }
    header.set_size(size);
    let seconds = u64::try_from(stat.st_mtime)
        .ok()
        .filter(|seconds| *seconds <= limit);
    header.set_mtime(seconds.unwrap_or(0));
    if stat.st_mtime_nsec != 0 || seconds.is_none() {
        pax.add("mtime", seconds_of(stat.st_mtime, stat.st_mtime_nsec));
    }
    if matches!(entry_type, tar::EntryType::Char | tar::EntryType::Block) {
        header.set_device_major(rustix::fs::major(stat.st_rdev))?;
        header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
    }
    let fields = header.as_ustar_mut().expect("it was made so");
    for (key, text, field) in [
        ("path", path, &mut fields.name),
        ("linkpath", link, &mut fields.linkname),
    ] {
        let fits = text.len().min(NAME);
        field[..fits].copy_from_slice(&text[..fits]);
        if text.len() > NAME {
            pax.add(key, text);
        }
    }
    header.set_cksum();
    Ok(header)
}

/// Seconds with their fraction; before 1970 the fraction counts the other way.
fn seconds_of(seconds: i64, nanos: u64) -> String {
    if seconds >= 0 || nanos == 0 {
        return format!("{seconds}.{nanos:09}");
    }
    let (whole, rest) = (-(seconds + 1), 1_000_000_000 - nanos);
    format!("-{whole}.{rest:09}")
}

/// Extended attributes, but for those that are this node's and not the image's.
fn attributes(directory: BorrowedFd<'_>, name: &OsStr, pax: &mut Pax) -> io::Result<()> {
    // By the directory's descriptor, and of a link itself.
    let mut path = OsString::from(format!("/proc/self/fd/{}/", directory.as_raw_fd()));
    path.push(name);
    let mut names = vec![0_u8; MAX_ATTRIBUTE];
    let length = match rustix::fs::llistxattr(&path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut all: Vec<&[u8]> = names[..length].split(|byte| *byte == 0).collect();
    all.sort_unstable();
    for attribute in all.into_iter().filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(attribute) else {
            continue;
        };
        let of_image = text.starts_with("user.")
            || text == "security.capability"
            || (text.starts_with("trusted.") && !text.starts_with("trusted.overlay."));
        if !of_image || text.contains('=') {
            continue;
        }
        let mut value = vec![0_u8; MAX_ATTRIBUTE];
        let length = rustix::fs::lgetxattr(&path, text, &mut value[..])?;
        value.truncate(length);
        pax.add(&format!("SCHILY.xattr.{text}"), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_tree_comes_back_from_its_archive_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
        std::fs::create_dir_all(from.join("d".repeat(120))).unwrap();
        std::fs::write(from.join(&long), "long").unwrap();
        std::fs::write(from.join("plain"), vec![7_u8; 100_000]).unwrap();
        std::fs::hard_link(from.join("plain"), from.join("second")).unwrap();
        std::fs::set_permissions(from.join("plain"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("plain", from.join("link")).unwrap();
        symlink("x".repeat(300), from.join("long-link")).unwrap();
        std::fs::write(from.join(OsStr::from_bytes(b"not-utf8-\xff")), "x").unwrap();
        let mut archive = Vec::new();
        let root = OwnedFd::from(File::open(&from).unwrap());
        write(root, &mut archive).unwrap();
        let mut again = Vec::new();
        write(OwnedFd::from(File::open(&from).unwrap()), &mut again).unwrap();
        assert!(archive == again, "the same tree is the same archive");
        let to = dir.path().join("to");
        std::fs::create_dir(&to).unwrap();
        std::fs::write(dir.path().join("a.tar"), &archive).unwrap();
        let tar = std::process::Command::new("tar")
            .args(["-xpf", "../a.tar"])
            .current_dir(&to)
            .status()
            .unwrap();
        assert!(tar.success());
        let same = std::process::Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(&from)
            .arg(&to)
            .output()
            .unwrap();
        assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
        let (a, b) = (
            to.join("plain").metadata().unwrap(),
            to.join("second").metadata().unwrap(),
        );
        assert_eq!((a.ino(), a.mode() & 0o7777), (b.ino(), 0o4755));
        let was = from.join("plain").metadata().unwrap();
        assert_eq!((was.mtime(), was.mtime_nsec()), (a.mtime(), a.mtime_nsec()));
    }

    #[test]
    fn times_before_the_epoch_are_one_number() {
        assert_eq!(seconds_of(1, 500_000_000), "1.500000000");
        assert_eq!(seconds_of(-1, 500_000_000), "-0.500000000");
        assert_eq!(seconds_of(-2, 250_000_000), "-1.750000000");
    }
}
