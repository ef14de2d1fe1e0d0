//! Directories' lists of names, in blocks as the kernel's search wants them: in the order of bytes, the
//! directory's own two names among the others.

use super::format::{BLOCK, DIRENT, DirectoryBlock, FileKind};
use super::tree::{Kind, NodeId, ROOT, Tree};

/// What is found out of a directory before any is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Where its names start among all, and how many there are.
    pub(super) begin: u32,
    pub(super) count: u32,
    /// Bytes of its list.
    pub(super) size: u32,
    /// How much of that lies behind the inode.
    pub(super) tail: u32,
    /// The block where the rest starts.
    pub(super) first: u32,
    /// Of its inode; 0 for one that was removed again.
    pub(super) slot: u32,
    pub(super) links: u32,
}

impl Plan {
    pub(super) const REMOVED: Self = Self {
        begin: 0,
        count: 0,
        size: 0,
        tail: 0,
        first: 0,
        slot: 0,
        links: 0,
    };

    pub(super) fn is_removed(&self) -> bool {
        self.slot == 0
    }

    /// Blocks of its list apart from the inode.
    pub(super) fn blocks(&self) -> u64 {
        u64::from(self.size - self.tail).div_ceil(BLOCK)
    }
}

/// The tree with all its names, directory by directory, each in the order of bytes.
pub(super) struct Lists<'t> {
    pub(super) tree: &'t Tree,
    pub(super) sorted: &'t [NodeId],
}

impl Lists<'_> {
    /// Measures a directory's list; the tail is its last piece.
    pub(super) fn measure(&self, directory: NodeId) -> Plan {
        let begin = self
            .sorted
            .partition_point(|id| self.tree.parent(*id) < directory);
        let count = self.sorted[begin..].partition_point(|id| self.tree.parent(*id) == directory);
        let mut plan = Plan {
            begin: begin as u32,
            count: count as u32,
            links: 2,
            ..Plan::REMOVED
        };
        let (mut blocks, mut used) = (0, 0);
        self.each_name(&plan, directory, |name, _| {
            let more = DIRENT + name.len();
            if used + more > BLOCK as usize {
                (blocks, used) = (blocks + 1, 0);
            }
            used += more;
        });
        // The names that may be held are far fewer than four gigabytes.
        plan.size = (blocks * BLOCK + used as u64) as u32;
        plan.tail = used as u32;
        for id in &self.sorted[begin..begin + count] {
            plan.links += u32::from(self.tree.directory(*id).is_some());
        }
        plan
    }

    fn each_name<'s>(&'s self, plan: &Plan, directory: NodeId, mut take: impl FnMut(&'s [u8], NodeId)) {
        let mut own = [(&b"."[..], directory), (&b".."[..], self.tree.parent(directory))]
            .into_iter()
            .peekable();
        for id in &self.sorted[plan.begin as usize..][..plan.count as usize] {
            // The root is in no directory and its number is the lowest: it never comes here.
            debug_assert_ne!(*id, ROOT);
            let name = self.tree.name(*id);
            while let Some((dots, node)) = own.next_if(|(dots, _)| *dots < name) {
                take(dots, node);
            }
            take(name, *id);
        }
        own.for_each(|(dots, node)| take(dots, node));
    }

    /// A directory's list, a block after the other; the last one is as long as what is in it.
    pub(super) fn each_block(
        &self,
        plans: &[Plan],
        number: usize,
        mut take: impl FnMut(&[u8]) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        let directory = self.tree.directories[number].node;
        let (mut block, mut used, mut result) = (DirectoryBlock::new(), 0, Ok(()));
        self.each_name(&plans[number], directory, |name, id| {
            let more = DIRENT + name.len();
            if used + more > BLOCK as usize && result.is_ok() {
                result = take(&block.take());
                used = 0;
            }
            used += more;
            let node = self.tree.node(id);
            let (kind, slot) = match node.kind {
                Kind::File(FileKind::Directory) => (FileKind::Directory, plans[node.slot as usize].slot),
                Kind::File(kind) => (kind, node.slot),
                Kind::Whiteout => (FileKind::Character, node.slot),
                Kind::Awaited => (FileKind::Regular, node.slot),
            };
            block.push(name, slot.into(), kind);
        });
        result?;
        take(&block.take())
    }
}
