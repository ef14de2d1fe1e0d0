//! Makes what entries describe: files, directories, links, devices and the marks of removed files.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chmod, chownat, ftruncate, lsetxattr, makedev,
    mkdirat, mknodat, openat, setxattr, symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite, write};

use super::attributes::{
    DEFAULT_ACL, apply, by_descriptor, clear_xattrs, set_mtime, times, unless_unsupported, wanted,
};
use super::directories::{Directory, keys_within, set_opaque};
use super::{ExtractError, Extraction, LayerPath, Unpack, is_opaque};
use crate::archive::{Archive, Entry, Kind, Segment};
use crate::stat::Stat;

impl Unpack for Extraction {
    fn root(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let root = self.directories.root();
        self.describe(entry, &root, true)
    }

    fn opaque(&mut self, entry: &Entry, parent: &LayerPath) -> Result<(), ExtractError> {
        let directory = self.directories.ensure(&entry.path, parent, entry.mtime)?;
        if directory.path.is_root() {
            // Overlay merges the roots of all layers unasked: the stack is cut above instead.
            self.opaque_root = true;
            return Ok(());
        }
        let opaque = is_opaque(&directory.fd).map_err(ExtractError::io(
            &entry.path,
            "look whether a directory is opaque",
        ))?;
        if !opaque {
            set_opaque(&entry.path, &directory.fd)?;
            self.directories.is_emptied(&directory.path, true);
        }
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, parent: &LayerPath, name: &[u8]) -> Result<(), ExtractError> {
        let parent = self.directories.ensure(&entry.path, parent, entry.mtime)?;
        self.mark_removed(entry, &parent, name)
    }

    fn name(
        &mut self,
        entry: &Entry,
        parent: &LayerPath,
        name: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<(), ExtractError> {
        let parent = self.directories.ensure(&entry.path, parent, entry.mtime)?;
        match &entry.kind {
            Kind::Directory => self.directory(entry, &parent, name),
            Kind::HardLink(target) => self.hard_link(entry, &parent, name, target),
            Kind::File | Kind::Sparse { .. } => self.file(entry, &parent, name, archive),
            Kind::Symlink(target) => self.symlink(entry, &parent, name, target),
            Kind::Character { .. } | Kind::Block { .. } | Kind::Fifo => self.special(entry, &parent, name),
        }
    }
}

impl Extraction {
    pub(super) fn directory(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
    ) -> Result<(), ExtractError> {
        let failed = "make the directory";
        let make = || {
            mkdirat(
                &parent.fd,
                OsStr::from_bytes(name),
                Mode::from_raw_mode(entry.mode & 0o777),
            )
        };
        let (mut existed, mut hides) = (false, false);
        let fd = match make() {
            Ok(()) => self.directories.child(parent, name),
            Err(Errno::EXIST) => match self.directories.child(parent, name) {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    self.replace(entry, parent, name)?;
                    hides = true;
                    make().map_err(ExtractError::io(&entry.path, failed))?;
                    self.directories.child(parent, name)
                }
                found => {
                    existed = true;
                    found
                }
            },
            Err(errno) => Err(errno),
        };
        let fd = fd.map_err(ExtractError::io(&entry.path, failed))?;
        if hides {
            // What this layer had there before, a file or a whiteout, hid the lower layers' directory.
            set_opaque(&entry.path, &fd)?;
        }
        let directory = Arc::new(Directory {
            fd,
            path: parent.path.join(name),
        });
        self.describe(entry, &directory, existed)?;
        if !existed {
            self.directories.remember(directory.path.clone(), directory);
        }
        Ok(())
    }

    /// Sets what an entry says of its directory; times and default ACL wait for the end.
    fn describe(&mut self, entry: &Entry, directory: &Directory, existed: bool) -> Result<(), ExtractError> {
        if existed {
            clear_xattrs(&directory.fd)
                .map_err(ExtractError::io(&entry.path, "remove extended attributes"))?;
        }
        let stat = stat(entry, &directory.fd)?;
        let mut now = entry.clone();
        let default_acl = now
            .xattrs
            .iter()
            .position(|(name, _)| name == DEFAULT_ACL.as_bytes())
            .map(|at| now.xattrs.remove(at).1);
        apply(&now, &directory.fd, &stat)?;
        self.directories
            .described(&entry.path, &directory.path, entry.mtime, default_acl)
    }

    pub(super) fn file(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<(), ExtractError> {
        let open = || {
            // O_EXCL: what is there, a symbolic link too, is never opened but removed.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            openat(&parent.fd, OsStr::from_bytes(name), flags, mode)
        };
        let file = match open() {
            Err(Errno::EXIST) => {
                self.replace(entry, parent, name)?;
                open()
            }
            other => other,
        };
        let file = file.map_err(ExtractError::io(&entry.path, "make the file"))?;
        match &entry.kind {
            Kind::Sparse { real_size, segments } => {
                for segment in segments {
                    write_segment(entry, &file, *segment, archive)?;
                }
                ftruncate(&file, *real_size)
                    .map_err(ExtractError::io(&entry.path, "set the size of the sparse file"))?;
            }
            _ => write_all(entry, &file, archive)?,
        }
        let stat = stat(entry, &file)?;
        apply(entry, &file, &stat)?;
        set_mtime(&file, entry.mtime).map_err(ExtractError::io(&entry.path, "set the modification time"))?;
        self.directories.count(&stat);
        Ok(())
    }

    pub(super) fn symlink(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), ExtractError> {
        if target.is_empty() {
            return Err(ExtractError::refused(
                &entry.path,
                "a symbolic link leads nowhere",
            ));
        }
        let (target, os_name) = (OsStr::from_bytes(target), OsStr::from_bytes(name));
        let made = match symlinkat(target, &parent.fd, os_name) {
            Err(Errno::EXIST) => {
                self.replace(entry, parent, name)?;
                symlinkat(target, &parent.fd, os_name)
            }
            other => other,
        };
        made.map_err(ExtractError::io(&entry.path, "make the symbolic link"))?;
        let stat = Stat::at(&parent.fd, os_name).map_err(ExtractError::io(&entry.path, "look at it"))?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if (stat.uid, stat.gid) != (entry.uid, entry.gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(&parent.fd, os_name, Some(uid), Some(gid), flags)
                .map_err(ExtractError::io(&entry.path, "change the owner"))?;
        }
        for (attribute, value) in wanted(entry)? {
            // No call before Linux 6.13 takes a directory here; the last name is not followed.
            let mut path = by_descriptor(&parent.fd).into_bytes();
            path.push(b'/');
            path.extend_from_slice(name);
            let set = lsetxattr(OsString::from_vec(path), attribute, value, XattrFlags::empty());
            unless_unsupported(attribute, set)
                .map_err(ExtractError::io(&entry.path, "set an extended attribute"))?;
        }
        utimensat(&parent.fd, os_name, &times(entry.mtime), flags)
            .map_err(ExtractError::io(&entry.path, "set the modification time"))?;
        self.directories.count(&stat);
        Ok(())
    }

    pub(super) fn special(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
    ) -> Result<(), ExtractError> {
        let (kind, device) = match entry.kind {
            // Overlay's own mark: in an overlay it can mean nothing but this.
            Kind::Character { major: 0, minor: 0 } => {
                return self.mark_removed(entry, parent, name);
            }
            Kind::Character { major, minor } => (FileType::CharacterDevice, makedev(major, minor)),
            Kind::Block { major, minor } => (FileType::BlockDevice, makedev(major, minor)),
            _ => (FileType::Fifo, 0),
        };
        let os_name = OsStr::from_bytes(name);
        let make = || {
            mknodat(
                &parent.fd,
                os_name,
                kind,
                Mode::from_raw_mode(entry.mode & 0o777),
                device,
            )
        };
        let made = match make() {
            Err(Errno::EXIST) => {
                self.replace(entry, parent, name)?;
                make()
            }
            other => other,
        };
        made.map_err(ExtractError::io(&entry.path, "make the device or FIFO"))?;
        // Opening a device could act on hardware: O_PATH opens the name only.
        let file = openat(
            &parent.fd,
            os_name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(ExtractError::io(&entry.path, "open it again"))?;
        let stat = stat(entry, &file)?;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(&file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(ExtractError::io(&entry.path, "change the owner"))?;
        let path = by_descriptor(&file);
        chmod(&path, Mode::from_raw_mode(entry.mode))
            .map_err(ExtractError::io(&entry.path, "change the mode"))?;
        for (attribute, value) in wanted(entry)? {
            let set = setxattr(&path, attribute, value, XattrFlags::empty());
            unless_unsupported(attribute, set)
                .map_err(ExtractError::io(&entry.path, "set an extended attribute"))?;
        }
        utimensat(rustix::fs::CWD, &path, &times(entry.mtime), AtFlags::empty())
            .map_err(ExtractError::io(&entry.path, "set the modification time"))?;
        self.directories.count(&stat);
        Ok(())
    }

    /// Hides a name of the lower layers. What this layer itself has there stays: a whiteout is about the
    /// layers below, whatever the order of entries.
    fn mark_removed(&mut self, entry: &Entry, parent: &Directory, name: &[u8]) -> Result<(), ExtractError> {
        let os_name = OsStr::from_bytes(name);
        match self.directories.child(parent, name) {
            Ok(fd) => {
                self.directories.is_emptied(&parent.path.join(name), false);
                return set_opaque(&entry.path, fd);
            }
            // A file of this layer, which hides all below already, or a whiteout.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(ExtractError::io(&entry.path, "look at what it removes")(errno)),
        }
        mknodat(
            &parent.fd,
            os_name,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        )
        .map_err(ExtractError::io(&entry.path, "make the whiteout"))?;
        self.directories.usage.inodes += 1;
        self.directories.has_whiteout(&parent.path);
        Ok(())
    }

    /// Makes room for an entry: what an earlier one of this layer made goes.
    pub(super) fn replace(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
    ) -> Result<(), ExtractError> {
        for gone in keys_within(&self.lower_links, &parent.path.join(name)) {
            self.lower_links.remove(&gone);
        }
        self.directories.clear(&entry.path, parent, name).map(drop)
    }
}

fn stat(entry: &Entry, file: impl AsFd) -> Result<Stat, ExtractError> {
    Stat::of(file).map_err(ExtractError::io(&entry.path, "look at it"))
}

fn write_all(entry: &Entry, file: &OwnedFd, archive: &mut Archive<'_>) -> Result<(), ExtractError> {
    loop {
        let mut chunk = archive.data(usize::MAX)?;
        if chunk.is_empty() {
            return Ok(());
        }
        while !chunk.is_empty() {
            match write(file, chunk) {
                Ok(written) => chunk = &chunk[written..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ExtractError::io(&entry.path, "write the file")(errno)),
            }
        }
    }
}

fn write_segment(
    entry: &Entry,
    file: &OwnedFd,
    segment: Segment,
    archive: &mut Archive<'_>,
) -> Result<(), ExtractError> {
    let mut at = segment.offset;
    let end = segment.offset + segment.length;
    while at < end {
        let mut chunk = archive.data(usize::try_from(end - at).unwrap_or(usize::MAX))?;
        if chunk.is_empty() {
            return Err(ExtractError::Truncated);
        }
        while !chunk.is_empty() {
            match pwrite(file, chunk, at) {
                Ok(written) => {
                    chunk = &chunk[written..];
                    at += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ExtractError::io(&entry.path, "write the sparse file")(errno)),
            }
        }
    }
    Ok(())
}
