//! Hard links: inside the layer at once; into lower layers when those are known.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, mknodat, openat, openat2, readlinkat, symlinkat, unlinkat};
use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

use super::attributes::{set_mtime, times};
use super::directories::{Directory, inside};
use super::{Attributes, ExtractError, Extraction, LayerPath, is_opaque};
use crate::archive::Entry;
use crate::error::Error;
use crate::merged::Merged;
use crate::stat::Stat;
use coracle_types::Digest;

impl Extraction {
    /// A further name for a file. Neither the file nor a directory on the way to it may be reached through
    /// a symbolic link; a link to a symbolic link names the link itself.
    pub(super) fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), ExtractError> {
        let target = LayerPath::parse(&entry.path, target)?;
        let Some((target_parent, target_name)) = target.split() else {
            return Err(ExtractError::refused(&entry.path, "a hard link names the root"));
        };
        let directory = match self.directories.existing(&target_parent) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return self.link_into_lower(entry, parent, name, target),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(ExtractError::refused(
                    &entry.path,
                    format!("its hard link to {target} passes something that is no directory"),
                ));
            }
            Err(errno) => {
                return Err(ExtractError::io(&entry.path, "open its target's directory")(
                    errno,
                ));
            }
        };
        let os_target = OsStr::from_bytes(target_name);
        let found = match Stat::at(&directory, os_target) {
            Ok(found) => found,
            Err(Errno::NOENT) => return self.link_into_lower(entry, parent, name, target),
            Err(errno) => return Err(ExtractError::io(&entry.path, "look at its target")(errno)),
        };
        if found.is_directory() || found.is_whiteout() {
            return Err(ExtractError::refused(
                &entry.path,
                format!("its hard link names {target}, which is no file of the layer"),
            ));
        }
        self.link(entry, (directory.as_fd(), target_name), parent, name, &found)?;
        if let Some(lower) = self.lower_links.get(&target).cloned() {
            let own = parent.path.join(name);
            self.directories
                .charge(&entry.path, own.bytes().len() + lower.bytes().len())?;
            self.lower_links.insert(own, lower);
        }
        Ok(())
    }

    fn link(
        &mut self,
        entry: &Entry,
        (directory, target): (BorrowedFd<'_>, &[u8]),
        parent: &Directory,
        name: &[u8],
        found: &Stat,
    ) -> Result<(), ExtractError> {
        let (target, os_name) = (OsStr::from_bytes(target), OsStr::from_bytes(name));
        let make = || linkat(directory, target, &parent.fd, os_name, AtFlags::empty());
        let made = match make() {
            Err(Errno::EXIST) => {
                let there = Stat::at(&parent.fd, os_name);
                if there.is_ok_and(|there| there.identity == found.identity) {
                    return Ok(());
                }
                self.replace(entry, parent, name)?;
                make()
            }
            other => other,
        };
        made.map_err(ExtractError::io(&entry.path, "make the hard link"))
    }

    /// Puts an empty file in the place of a link whose target is not in this layer.
    fn link_into_lower(
        &mut self,
        entry: &Entry,
        parent: &Directory,
        name: &[u8],
        target: LayerPath,
    ) -> Result<(), ExtractError> {
        if self
            .hides_lower(&target)
            .map_err(ExtractError::io(&entry.path, "look for its target"))?
        {
            return Err(ExtractError::refused(
                &entry.path,
                format!("its hard link names {target}, which does not exist"),
            ));
        }
        let own = parent.path.join(name);
        if own == target {
            return Err(ExtractError::refused(&entry.path, "a hard link names itself"));
        }
        let make = || {
            mknodat(
                &parent.fd,
                OsStr::from_bytes(name),
                FileType::RegularFile,
                Mode::empty(),
                makedev(0, 0),
            )
        };
        let made = match make() {
            Err(Errno::EXIST) => {
                self.replace(entry, parent, name)?;
                make()
            }
            other => other,
        };
        made.map_err(ExtractError::io(&entry.path, "make a place for the hard link"))?;
        self.directories
            .charge(&entry.path, own.bytes().len() + target.bytes().len())?;
        self.lower_links.insert(own, target);
        Ok(())
    }

    /// Whether this layer already says that nothing of the lower layers is left at a path.
    fn hides_lower(&self, path: &LayerPath) -> rustix::io::Result<bool> {
        if self.opaque_root {
            return Ok(true);
        }
        let mut directory = self.directories.existing(&LayerPath::root())?;
        for name in path.components() {
            match openat2(
                &directory,
                OsStr::from_bytes(name),
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
                inside(),
            ) {
                Ok(_) if is_opaque(&directory)? => return Ok(true),
                Ok(below) => directory = below,
                Err(Errno::NOENT) => return is_opaque(&directory),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(true),
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }

    /// Fills the places of links into lower layers with copies of what they name there.
    pub(crate) fn complete(&mut self, diff_id: &Digest, lower: &mut Merged) -> Result<(), Error> {
        let links = std::mem::take(&mut self.lower_links);
        let mut done: HashMap<&LayerPath, &LayerPath> = HashMap::new();
        for (link, target) in &links {
            let failed = |reason, errno: Option<Errno>| Error::LinkTarget {
                diff_id: diff_id.clone(),
                entry: link.to_string(),
                target: target.to_string(),
                reason,
                source: errno.map(Into::into),
            };
            // Names of one target are names of one file.
            let first = done.get(target).copied();
            let result = match first {
                Some(first) => self.link_again(first, link),
                None => self.copy_up(lower, target, link),
            };
            match result {
                Ok(()) => {
                    done.entry(target).or_insert(link);
                }
                Err(Errno::NOENT) => return Err(failed("in none of the layers below", None)),
                Err(Errno::ISDIR) => return Err(failed("a directory", None)),
                Err(errno) => return Err(failed("not to be copied", Some(errno))),
            }
        }
        Ok(())
    }

    fn parent_of<'p>(&self, path: &'p LayerPath) -> rustix::io::Result<(OwnedFd, &'p OsStr)> {
        let (parent, name) = path.split().ok_or(Errno::INVAL)?;
        Ok((self.directories.existing(&parent)?, OsStr::from_bytes(name)))
    }

    fn link_again(&self, first: &LayerPath, link: &LayerPath) -> rustix::io::Result<()> {
        let (from, from_name) = self.parent_of(first)?;
        let (to, to_name) = self.parent_of(link)?;
        unlinkat(&to, to_name, AtFlags::empty())?;
        linkat(&from, from_name, &to, to_name, AtFlags::empty())
    }

    fn copy_up(
        &mut self,
        lower: &mut Merged,
        target: &LayerPath,
        link: &LayerPath,
    ) -> rustix::io::Result<()> {
        let (layer, stat) = lower.find(target)?.ok_or(Errno::NOENT)?;
        let (parent, target_name) = target.split().ok_or(Errno::INVAL)?;
        let (parent, target_name) = (lower.open(layer, &parent)?, OsStr::from_bytes(target_name));
        let (directory, name) = self.parent_of(link)?;
        unlinkat(&directory, name, AtFlags::empty())?;
        match stat.kind {
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = openat2(&parent, target_name, flags, Mode::empty(), inside())?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = openat(&directory, name, flags, Mode::RUSR)?;
                copy_content(&source, &copy)?;
                Attributes::read(&source)?.write(&copy)?;
                set_mtime(&copy, stat.mtime)?;
            }
            FileType::Symlink => {
                let leads_to = readlinkat(&parent, target_name, Vec::new())?;
                symlinkat(&leads_to, &directory, name)?;
                own(&directory, name, &stat)?;
            }
            kind => {
                let device = makedev(stat.device.0, stat.device.1);
                mknodat(&directory, name, kind, Mode::empty(), device)?;
                let made = openat(
                    &directory,
                    name,
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                own(&directory, name, &stat)?;
                rustix::fs::chmod(
                    super::attributes::by_descriptor(&made),
                    Mode::from_raw_mode(stat.mode),
                )?;
            }
        }
        self.directories.count(&Stat::at(&directory, name)?);
        Ok(())
    }
}

fn own(directory: &OwnedFd, name: &OsStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.uid),
        rustix::fs::Gid::from_raw(stat.gid),
    );
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)?;
    rustix::fs::utimensat(directory, name, &times(stat.mtime), flags)
}

fn copy_content(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    while rustix::fs::sendfile(to, from, None, 1 << 30)? > 0 {}
    Ok(())
}
