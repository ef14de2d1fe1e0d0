//! An archive's entries put into an image: the rules of the directory extractor, on a tree in memory.

use rustix::fs::Timespec;

use super::format::{FileKind, device};
use super::image::{Body, Image};
use super::tree::{Directory, Kind as NodeKind, NodeId, ROOT};
use crate::archive::{Archive, Entry, Kind};
use crate::extract::{Ahead, Attributes, ExtractError, LayerPath, Start, TooManyLinks, Unpack, Way};

const DIRECTORY: NodeKind = NodeKind::File(FileKind::Directory);
const SYMLINK: NodeKind = NodeKind::File(FileKind::Symlink);

impl Unpack for Image {
    fn root(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.describe(&entry.path, ROOT, Attributes::of_entry(entry)?, entry.mtime)
    }

    fn opaque(&mut self, entry: &Entry, parent: &LayerPath) -> Result<(), ExtractError> {
        let directory = self.ensure(&entry.path, parent, entry.mtime)?;
        if directory == ROOT {
            // Overlay merges the roots of all layers unasked: the stack is cut above instead.
            self.opaque_root = true;
            return Ok(());
        }
        let directory = self.tree.directory_mut(directory);
        if !directory.opaque {
            (directory.opaque, directory.emptied) = (true, true);
        }
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, parent: &LayerPath, name: &[u8]) -> Result<(), ExtractError> {
        let parent = self.ensure(&entry.path, parent, entry.mtime)?;
        self.mark_removed(&entry.path, parent, name)
    }

    fn name(
        &mut self,
        entry: &Entry,
        parent: &LayerPath,
        name: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<(), ExtractError> {
        let parent = self.ensure(&entry.path, parent, entry.mtime)?;
        let at = (parent, name);
        let (path, mtime) = (&entry.path[..], entry.mtime);
        match &entry.kind {
            Kind::HardLink(target) => return self.hard_link(path, at, target),
            // Overlay's own mark: in an overlay it can mean nothing but this.
            Kind::Character { major: 0, minor: 0 } => return self.mark_removed(path, parent, name),
            _ => {}
        }
        let attributes = Attributes::of_entry(entry)?;
        if entry.kind == Kind::Directory {
            return self.directory(path, at, attributes, mtime);
        }
        self.replace(at);
        match &entry.kind {
            Kind::Symlink(target) => self.symlink(path, at, attributes, mtime, target).map(drop),
            kind => {
                let (kind, body) = match kind {
                    Kind::Character { major, minor } => {
                        (FileKind::Character, Body::Device(device((*major, *minor))))
                    }
                    Kind::Block { major, minor } => (FileKind::Block, Body::Device(device((*major, *minor)))),
                    Kind::Fifo => (FileKind::Fifo, Body::Device(0)),
                    Kind::Sparse { real_size, segments } if *real_size > 0 => (
                        FileKind::Regular,
                        self.take_sparse(path, *real_size, segments, archive)?,
                    ),
                    _ => {
                        let size = archive.data_left();
                        (FileKind::Regular, self.take(path, size, archive)?)
                    }
                };
                let slot = self.put(path, kind, &attributes, mtime, body)?;
                self.insert(path, at, kind, slot).map(drop)
            }
        }
    }
}

impl Image {
    /// The directory at `path`, made if missing; links of the layer are followed with its root as `/`.
    pub(crate) fn ensure(
        &mut self,
        entry: &[u8],
        path: &LayerPath,
        mtime: Timespec,
    ) -> Result<NodeId, ExtractError> {
        if let Some((_, known)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(*known);
        }
        let found = self.walk(entry, path, mtime)?;
        self.last = Some((path.clone(), found));
        Ok(found)
    }

    fn walk(&mut self, entry: &[u8], path: &LayerPath, mtime: Timespec) -> Result<NodeId, ExtractError> {
        let (mut ahead, mut here) = (Ahead::of(path), ROOT);
        while let Some(step) = ahead.next() {
            let Way::Into(name) = step else {
                here = self.tree.parent(here);
                continue;
            };
            let Some(next) = self.tree.child(here, &name) else {
                here = self
                    .tree
                    .insert_directory(entry, (here, &name), Directory::implied(mtime))?;
                continue;
            };
            match self.tree.node(next).kind {
                DIRECTORY => here = next,
                SYMLINK => {
                    let start = ahead.follow(self.tree.target(next)).map_err(|TooManyLinks| {
                        ExtractError::refused(entry, "its path has too many symbolic links")
                    })?;
                    if start == Start::Root {
                        here = ROOT;
                    }
                }
                NodeKind::Whiteout => {
                    self.tree.remove(next);
                    here = self
                        .tree
                        .insert_directory(entry, (here, &name), Directory::implied(mtime))?;
                    self.tree.directory_mut(here).opaque = true;
                }
                _ => {
                    let path = self.tree.path(next);
                    return Err(ExtractError::refused(entry, format!("{path} is no directory")));
                }
            }
        }
        Ok(here)
    }

    /// The directory at `path`, neither made nor reached through a link.
    fn existing(&self, path: &LayerPath) -> Result<Option<NodeId>, NodeKind> {
        let mut here = ROOT;
        for name in path.components() {
            match self.tree.child(here, name) {
                None => return Ok(None),
                Some(next) => match self.tree.node(next).kind {
                    DIRECTORY => here = next,
                    other => return Err(other),
                },
            }
        }
        Ok(Some(here))
    }

    pub(crate) fn describe(
        &mut self,
        entry: &[u8],
        node: NodeId,
        attributes: Attributes,
        mtime: Timespec,
    ) -> Result<(), ExtractError> {
        let held = attributes
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len());
        self.tree.charge(entry, held.sum())?;
        self.tree.directory_mut(node).describe(attributes, mtime);
        Ok(())
    }

    fn directory(
        &mut self,
        entry: &[u8],
        at: (NodeId, &[u8]),
        attributes: Attributes,
        mtime: Timespec,
    ) -> Result<(), ExtractError> {
        let there = self.tree.child(at.0, at.1);
        let node = match there {
            Some(there) if self.tree.node(there).kind == DIRECTORY => there,
            other => {
                self.replace(at);
                let made = self.tree.insert_directory(entry, at, Directory::implied(mtime))?;
                // What this layer had there before, a file or a whiteout, hid the lower layers' directory.
                self.tree.directory_mut(made).opaque = other.is_some();
                made
            }
        };
        self.describe(entry, node, attributes, mtime)
    }

    pub(super) fn symlink(
        &mut self,
        entry: &[u8],
        at: (NodeId, &[u8]),
        attributes: Attributes,
        mtime: Timespec,
        target: &[u8],
    ) -> Result<NodeId, ExtractError> {
        if target.is_empty() {
            return Err(ExtractError::refused(entry, "a symbolic link leads nowhere"));
        }
        // Linux shows all links so.
        let attributes = Attributes {
            mode: 0o777,
            ..attributes
        };
        let body = Body::Blocks {
            size: target.len() as u64,
            first: self.out.block(),
            tail: target.to_vec(),
        };
        let slot = self.put(entry, FileKind::Symlink, &attributes, mtime, body)?;
        self.tree.insert(entry, at, SYMLINK, slot, Some(target))
    }

    /// Hides a name of the lower layers. What this layer itself has there stays: a whiteout is about the
    /// layers below, whatever the order of entries.
    pub(super) fn mark_removed(
        &mut self,
        entry: &[u8],
        parent: NodeId,
        name: &[u8],
    ) -> Result<(), ExtractError> {
        if let Some(there) = self.tree.child(parent, name) {
            if self.tree.node(there).kind == DIRECTORY {
                let directory = self.tree.directory_mut(there);
                (directory.opaque, directory.emptied) = (true, false);
            }
            return Ok(());
        }
        let slot = match self.whiteout {
            Some(slot) => slot,
            None => {
                let nothing = Attributes {
                    mode: 0,
                    uid: 0,
                    gid: 0,
                    xattrs: Vec::new(),
                };
                let epoch = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                let slot = self.put(entry, FileKind::Character, &nothing, epoch, Body::Device(0))?;
                *self.whiteout.insert(slot)
            }
        };
        let made = self
            .tree
            .insert(entry, (parent, name), NodeKind::Whiteout, slot, None)?;
        self.tree.node_mut(made).shared = true;
        self.tree.directory_mut(parent).whiteouts = true;
        Ok(())
    }

    /// A further name for a file. Neither the file nor a directory on the way to it may be reached through
    /// a symbolic link; a link to a symbolic link names the link itself.
    fn hard_link(&mut self, entry: &[u8], at: (NodeId, &[u8]), target: &[u8]) -> Result<(), ExtractError> {
        let target = LayerPath::parse(entry, target)?;
        let Some((target_parent, target_name)) = target.split() else {
            return Err(ExtractError::refused(entry, "a hard link names the root"));
        };
        let directory = self.existing(&target_parent).map_err(|_| {
            let reason = format!("its hard link to {target} passes something that is no directory");
            ExtractError::refused(entry, reason)
        })?;
        let Some(found) = directory.and_then(|directory| self.tree.child(directory, target_name)) else {
            return self.link_into_lower(entry, at, target);
        };
        if matches!(self.tree.node(found).kind, DIRECTORY | NodeKind::Whiteout) {
            let reason = format!("its hard link names {target}, which is no file of the layer");
            return Err(ExtractError::refused(entry, reason));
        }
        if self.tree.child(at.0, at.1) == Some(found) {
            return Ok(());
        }
        let own = self.tree.path(at.0).join(at.1);
        if target.is_below(&own) {
            let reason = format!("its hard link names {target}, which it replaces");
            return Err(ExtractError::refused(entry, reason));
        }
        self.replace(at);
        self.link(entry, at, found)
    }

    /// A further name for a node of the tree.
    pub(super) fn link(
        &mut self,
        entry: &[u8],
        at: (NodeId, &[u8]),
        found: NodeId,
    ) -> Result<(), ExtractError> {
        let there = *self.tree.node(found);
        let leads_to = (there.kind == SYMLINK).then(|| self.tree.target(found).to_vec());
        let made = self
            .tree
            .insert(entry, at, there.kind, there.slot, leads_to.as_deref())?;
        self.tree.node_mut(made).shared = true;
        self.tree.node_mut(found).shared = true;
        if let Some(lower) = self.lower_links.get(&found).cloned() {
            self.tree.charge(entry, lower.bytes().len())?;
            self.lower_links.insert(made, lower);
        }
        Ok(())
    }

    /// Keeps a place for a link whose target is not in this layer.
    fn link_into_lower(
        &mut self,
        entry: &[u8],
        at: (NodeId, &[u8]),
        target: LayerPath,
    ) -> Result<(), ExtractError> {
        if self.hides_lower(&target) {
            let reason = format!("its hard link names {target}, which does not exist");
            return Err(ExtractError::refused(entry, reason));
        }
        if self.tree.path(at.0).join(at.1) == target {
            return Err(ExtractError::refused(entry, "a hard link names itself"));
        }
        self.replace(at);
        self.tree.charge(entry, target.bytes().len())?;
        let made = self.tree.insert(entry, at, NodeKind::Awaited, 0, None)?;
        self.lower_links.insert(made, target);
        Ok(())
    }

    /// Whether this layer already says that nothing of the lower layers is left at a path.
    fn hides_lower(&self, path: &LayerPath) -> bool {
        let mut here = ROOT;
        for name in path.components() {
            match self.tree.child(here, name) {
                None => return self.opaque_root,
                Some(next) => match self.tree.directory(next) {
                    None => return true,
                    Some(directory) if directory.opaque => return true,
                    Some(_) => here = next,
                },
            }
        }
        self.opaque_root
    }

    /// Makes room for an entry: what an earlier one of this layer made goes, its bytes in the image stay
    /// unused.
    pub(super) fn replace(&mut self, (parent, name): (NodeId, &[u8])) {
        let Some(there) = self.tree.child(parent, name) else {
            return;
        };
        self.tree.remove(there);
        self.lower_links.remove(&there);
        if matches!(self.tree.node(there).kind, DIRECTORY | SYMLINK) {
            self.last = None;
        }
    }
}
