//! A layer's tree of names in memory: what an archive's paths are resolved in, without any host path.
//!
//! A million files take some forty megabytes: a name is sixteen bytes, its own bytes, and a place in a
//! table. What a file is beyond its name is in the image already; only directories are kept whole.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use rustix::fs::Timespec;

use super::format::FileKind;
use crate::extract::{Attributes, ExtractError, LayerPath};
use crate::limits::Limits;

/// A name's place in [`Tree`].
pub(super) type NodeId = u32;
/// The layer's root.
pub(super) const ROOT: NodeId = 0;

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File(FileKind),
    /// Hides a name of lower layers.
    Whiteout,
    /// Stands for a hard link into lower layers until those are known.
    Awaited,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    parent: NodeId,
    /// Where its name starts; the target of a symbolic link follows.
    name: u32,
    /// A directory's number among the directories; of others, the inode's slot in the image.
    pub(super) slot: u32,
    length: u8,
    pub(super) kind: Kind,
    /// Another name may have the same inode.
    pub(super) shared: bool,
    removed: bool,
}

/// A directory, which is written when all of it is known.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) node: NodeId,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Timespec,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// No entry describes it.
    pub(super) implied: bool,
    pub(super) opaque: bool,
    /// An opaque mark, not a whiteout, hides what lower layers have in it.
    pub(super) emptied: bool,
    pub(super) whiteouts: bool,
}

impl Directory {
    /// One that is only implied, as others make it: root's, mode 755.
    pub(super) fn implied(mtime: Timespec) -> Self {
        Self {
            node: ROOT,
            mode: 0o755,
            owner: (0, 0),
            mtime,
            xattrs: Vec::new(),
            implied: true,
            opaque: false,
            emptied: false,
            whiteouts: false,
        }
    }

    /// Takes what an entry says of it.
    pub(super) fn describe(&mut self, attributes: Attributes, mtime: Timespec) {
        self.mode = attributes.mode;
        self.owner = (attributes.uid, attributes.gid);
        self.xattrs = attributes.xattrs;
        self.mtime = mtime;
        (self.implied, self.emptied) = (false, false);
    }
}

pub(super) struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    table: HashTable<NodeId>,
    hasher: RandomState,
    pub(super) directories: Vec<Directory>,
    held: usize,
    most: usize,
}

impl Tree {
    pub(super) fn new(limits: &Limits) -> Self {
        let epoch = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let root = Node {
            parent: ROOT,
            name: 0,
            slot: 0,
            length: 0,
            kind: Kind::File(FileKind::Directory),
            shared: false,
            removed: false,
        };
        Self {
            nodes: vec![root],
            names: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            directories: vec![Directory::implied(epoch)],
            held: 0,
            most: limits.held_names_bytes,
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.name_of(self.node(id))
    }

    fn name_of(&self, node: &Node) -> &[u8] {
        &self.names[node.name as usize..][..usize::from(node.length)]
    }

    /// The directory that a node is, if it is one.
    pub(super) fn directory(&self, id: NodeId) -> Option<&Directory> {
        let node = self.node(id);
        (node.kind == Kind::File(FileKind::Directory)).then(|| &self.directories[node.slot as usize])
    }

    /// As [`directory`](Self::directory), of a node that is known to be one.
    pub(super) fn directory_mut(&mut self, id: NodeId) -> &mut Directory {
        let slot = self.node(id).slot;
        &mut self.directories[slot as usize]
    }

    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).parent
    }

    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let same = |id: &NodeId| {
            let node = self.node(*id);
            node.parent == parent && self.name_of(node) == name
        };
        self.table.find(self.hash(parent, name), same).copied()
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    /// Where a symbolic link leads.
    pub(super) fn target(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        let at = node.name as usize + usize::from(node.length);
        let length = usize::from(u16::from_le_bytes([self.names[at], self.names[at + 1]]));
        &self.names[at + 2..][..length]
    }

    pub(super) fn path(&self, id: NodeId) -> LayerPath {
        let mut trail = Vec::new();
        let mut at = id;
        while at != ROOT {
            trail.push(at);
            at = self.parent(at);
        }
        trail
            .iter()
            .rev()
            .fold(LayerPath::root(), |path, at| path.join(self.name(*at)))
    }

    /// Counts memory that is held until the end.
    pub(super) fn charge(&mut self, entry: &[u8], bytes: usize) -> Result<(), ExtractError> {
        self.held += bytes;
        if self.held > self.most {
            return Err(ExtractError::limit(
                entry,
                "bytes of names to be remembered",
                self.most as u64,
            ));
        }
        Ok(())
    }

    /// Adds a name that is not there; `target` is a symbolic link's.
    pub(super) fn insert(
        &mut self,
        entry: &[u8],
        (parent, name): (NodeId, &[u8]),
        kind: Kind,
        slot: u32,
        target: Option<&[u8]>,
    ) -> Result<NodeId, ExtractError> {
        let Ok(length) = u8::try_from(name.len()) else {
            return Err(ExtractError::refused(entry, "a name is longer than 255 bytes"));
        };
        let target_length = target.map_or(0, |target| target.len() + 2);
        // A place in the table takes five bytes, and a third of them are free.
        self.charge(entry, size_of::<Node>() + 8 + name.len() + target_length)?;
        // Both are bounded by what may be held.
        let (id, start) = (self.nodes.len() as NodeId, self.names.len() as u32);
        self.names.extend_from_slice(name);
        if let Some(target) = target {
            let length = u16::try_from(target.len())
                .map_err(|_| ExtractError::refused(entry, "the target of a symbolic link is too long"))?;
            self.names.extend_from_slice(&length.to_le_bytes());
            self.names.extend_from_slice(target);
        }
        self.nodes.push(Node {
            parent,
            name: start,
            slot,
            length,
            kind,
            shared: false,
            removed: false,
        });
        let hash = self.hash(parent, name);
        let (nodes, names, hasher) = (&self.nodes, &self.names, &self.hasher);
        self.table.insert_unique(hash, id, |id| {
            let node = &nodes[*id as usize];
            let name = &names[node.name as usize..][..usize::from(node.length)];
            hasher.hash_one((node.parent, name))
        });
        Ok(id)
    }

    pub(super) fn insert_directory(
        &mut self,
        entry: &[u8],
        (parent, name): (NodeId, &[u8]),
        mut directory: Directory,
    ) -> Result<NodeId, ExtractError> {
        let number = self.directories.len() as u32;
        let attributes: usize = directory
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.charge(entry, size_of::<Directory>() + attributes)?;
        let kind = Kind::File(FileKind::Directory);
        let id = self.insert(entry, (parent, name), kind, number, None)?;
        directory.node = id;
        self.directories.push(directory);
        Ok(id)
    }

    /// Takes a name away; what is below it goes with it.
    pub(super) fn remove(&mut self, id: NodeId) {
        let node = *self.node(id);
        let hash = self.hash(node.parent, self.name_of(&node));
        if let Ok(entry) = self.table.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.node_mut(id).removed = true;
    }

    /// Whether each node is still in the tree.
    pub(super) fn present(&self) -> Vec<bool> {
        let mut present: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for (at, node) in self.nodes.iter().enumerate() {
            // A parent is made before what is in it.
            present.push(!node.removed && (at == 0 || present[node.parent as usize]));
        }
        present
    }

    /// All names but the root, directory by directory, each in the order of its names' bytes.
    pub(super) fn sorted(&self, present: &[bool]) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = (1..self.nodes.len() as NodeId)
            .filter(|id| present[*id as usize])
            .collect();
        all.sort_unstable_by(|a, b| {
            let (a, b) = (self.node(*a), self.node(*b));
            (a.parent, self.name_of(a)).cmp(&(b.parent, self.name_of(b)))
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_gone_with_all_below() {
        let mut tree = Tree::new(&Limits::default());
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let a = tree
            .insert_directory(b"", (ROOT, b"a"), Directory::implied(time))
            .expect("fits");
        let link = tree
            .insert(
                b"",
                (a, b"l"),
                Kind::File(FileKind::Symlink),
                7,
                Some(b"to/there"),
            )
            .expect("fits");
        assert_eq!(tree.target(link), b"to/there");
        assert_eq!(tree.path(link).bytes(), b"a/l");
        tree.remove(a);
        assert_eq!(tree.child(ROOT, b"a"), None);
        assert_eq!(tree.present(), [true, false, false]);
        assert!(tree.sorted(&tree.present()).is_empty());
    }

    #[test]
    fn a_name_takes_little() {
        assert_eq!(size_of::<Node>(), 16);
    }
}
