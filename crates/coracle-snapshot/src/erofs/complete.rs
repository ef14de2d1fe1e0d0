//! Files of lower layers copied into an image, and what a relocated or a fix-up layer is made of.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use coracle_types::Digest;
use rustix::fs::{FileType, Mode, OFlags, openat2, readlinkat};
use rustix::io::{Errno, read};

use super::format::{FileKind, device};
use super::image::{Body, Image, Source};
use super::tree::{Kind, NodeId};
use crate::error::Error;
use crate::extract::{Attributes, ExtractError, LayerPath, inside};
use crate::merged::Merged;
use crate::stat::Stat;

/// A file that is copied.
struct Copied {
    file: OwnedFd,
    buffer: Vec<u8>,
}

impl Source for Copied {
    fn next(&mut self, most: usize) -> Result<&[u8], ExtractError> {
        let most = most.min(self.buffer.len());
        loop {
            match read(&self.file, &mut self.buffer[..most]) {
                Ok(length) => return Ok(&self.buffer[..length]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ExtractError::io(b"", "read a file of a layer")(errno)),
            }
        }
    }
}

impl Image {
    /// Whether it has hard links into the layers below.
    pub(crate) fn needs_lowers(&self) -> bool {
        if self.lower_links.is_empty() {
            return false;
        }
        let present = self.tree.present();
        self.lower_links.keys().any(|id| present[*id as usize])
    }

    /// Fills the places of links into lower layers with copies of what they name there.
    pub(crate) fn complete(&mut self, diff_id: &Digest, lower: &mut Merged) -> Result<(), Error> {
        let present = self.tree.present();
        let links = std::mem::take(&mut self.lower_links);
        let mut done: HashMap<LayerPath, NodeId> = HashMap::new();
        for (link, target) in links.into_iter().filter(|(id, _)| present[*id as usize]) {
            if let Some(first) = done.get(&target).copied() {
                // Names of one target are names of one file.
                let (kind, slot) = (self.tree.node(first).kind, self.tree.node(first).slot);
                let node = self.tree.node_mut(link);
                (node.kind, node.slot, node.shared) = (kind, slot, true);
                self.tree.node_mut(first).shared = true;
                continue;
            }
            let entry = self.tree.path(link);
            let failed = |reason, source: Option<std::io::Error>| Error::LinkTarget {
                diff_id: diff_id.clone(),
                entry: entry.to_string(),
                target: target.to_string(),
                reason,
                source,
            };
            let found = lower
                .find(&target)
                .map_err(|errno| failed("not to be found", Some(errno.into())))?;
            let Some((layer, stat)) = found else {
                return Err(failed("in none of the layers below", None));
            };
            if stat.is_directory() {
                return Err(failed("a directory", None));
            }
            let (parent, name) = target.split().ok_or_else(|| failed("a directory", None))?;
            let parent = lower
                .open(layer, &parent)
                .map_err(|errno| failed("not to be copied", Some(errno.into())))?;
            let (kind, slot) = self
                .copy_in(&parent, name, &stat)
                .map_err(|error| failed("not to be copied", Some(std::io::Error::other(error))))?;
            let node = self.tree.node_mut(link);
            (node.kind, node.slot) = (Kind::File(kind), slot);
            done.insert(target, link);
        }
        Ok(())
    }

    /// Writes the inode of a file of another layer, and its content.
    fn copy_in(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        stat: &Stat,
    ) -> Result<(FileKind, u32), ExtractError> {
        let failed = |errno| ExtractError::io(name, "read a file of a layer")(errno);
        let os_name = OsStr::from_bytes(name);
        let mut attributes = Attributes {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            xattrs: Vec::new(),
        };
        let (kind, body) = match stat.kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat2(parent, os_name, flags, Mode::empty(), inside()).map_err(failed)?;
                attributes = Attributes::read(&file).map_err(failed)?;
                let mut source = Copied {
                    file,
                    buffer: vec![0; 256 << 10],
                };
                let body = self.take(name, stat.size, &mut source)?;
                (FileKind::Regular, body)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, os_name, Vec::new()).map_err(failed)?;
                let target = target.into_bytes();
                let body = Body::Blocks {
                    size: target.len() as u64,
                    first: self.out.block(),
                    tail: target,
                };
                (FileKind::Symlink, body)
            }
            FileType::CharacterDevice => (FileKind::Character, Body::Device(device(stat.device))),
            FileType::BlockDevice => (FileKind::Block, Body::Device(device(stat.device))),
            FileType::Fifo => (FileKind::Fifo, Body::Device(0)),
            _ => return Err(ExtractError::refused(name, "no layer can have this kind of file")),
        };
        let slot = self.put(name, kind, &attributes, stat.mtime, body)?;
        Ok((kind, slot))
    }

    /// Copies a file of another layer to a directory of this one; false if something is there. `known` has
    /// the files with several names that were copied before.
    pub(crate) fn copy_to(
        &mut self,
        (from, name): (&OwnedFd, &[u8]),
        stat: &Stat,
        directory: NodeId,
        known: &mut HashMap<(u32, u32, u64), NodeId>,
    ) -> Result<bool, ExtractError> {
        if self.tree.child(directory, name).is_some() {
            return Ok(false);
        }
        if stat.is_whiteout() {
            self.mark_removed(name, directory, name)?;
            return Ok(true);
        }
        if let Some(first) = known.get(&stat.identity).copied() {
            self.link(name, (directory, name), first)?;
            return Ok(true);
        }
        let (kind, slot) = self.copy_in(from, name, stat)?;
        let target = match kind {
            FileKind::Symlink => {
                let target = readlinkat(from, OsStr::from_bytes(name), Vec::new());
                Some(
                    target
                        .map_err(ExtractError::io(name, "read a symbolic link"))?
                        .into_bytes(),
                )
            }
            _ => None,
        };
        let made = self
            .tree
            .insert(name, (directory, name), Kind::File(kind), slot, target.as_deref())?;
        if stat.links > 1 {
            known.insert(stat.identity, made);
        }
        Ok(true)
    }

    /// Hides the lower layers' directory below this one.
    pub(crate) fn mark_opaque(&mut self, directory: NodeId, emptied: bool) {
        let directory = self.tree.directory_mut(directory);
        (directory.opaque, directory.emptied) = (true, emptied);
    }

    /// Where a directory is, with no symbolic link on the way.
    pub(crate) fn path(&self, directory: NodeId) -> LayerPath {
        self.tree.path(directory)
    }
}
