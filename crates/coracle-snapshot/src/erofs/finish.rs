//! The end of an image: directories with their inodes, numbers of links, the superblock.

use rustix::io::Errno;

use super::format::{self, BLOCK, FileKind, INODE, Inode, Layout, NLINK_AT, SLOT, Super};
use super::image::{Image, WRITE, xattr_bytes};
use super::lists::{Lists, Plan};
use super::output::{Output, place};
use super::tree::{NodeId, ROOT, Tree};
use crate::extract::{Contents, ExtractError, LayerPath, OPAQUE};
use crate::record::{ImageFile, Made};
use crate::snapshotter::Usage;
use crate::stat::Stat;

/// What the first block has for the root's inode and what follows it.
const ROOT_ROOM: usize = BLOCK as usize - format::ROOT;

fn failed(errno: Errno) -> ExtractError {
    ExtractError::io(b"", WRITE)(errno)
}

impl Image {
    /// Writes what had to wait, and the superblock. `uuid` is what overlay tells this layer by.
    pub(crate) fn finish(mut self, uuid: [u8; 16]) -> Result<Made, ExtractError> {
        let present = self.tree.present();
        let sorted = self.tree.sorted(&present);
        self.out.end_region().map_err(failed)?;
        self.out.end_block().map_err(failed)?;
        set_links(&self.out, &self.tree, &sorted).map_err(failed)?;
        let lists = Lists {
            tree: &self.tree,
            sorted: &sorted,
        };
        let plans = plan(&lists, &present, self.out.position())?;
        for (number, plan) in plans.iter().enumerate() {
            write_list(&mut self.out, &lists, &plans, number, plan.blocks()).map_err(failed)?;
        }
        let mut first = vec![0; BLOCK as usize];
        for (number, plan) in plans.iter().enumerate().filter(|(_, plan)| !plan.is_removed()) {
            self.inodes += 1;
            let bytes = inode(&lists, &plans, number, self.inodes)?;
            if number == 0 {
                first[format::ROOT..format::ROOT + bytes.len()].copy_from_slice(&bytes);
            } else {
                let at = u64::from(plan.slot) * SLOT;
                self.out
                    .zeros_to(at)
                    .and_then(|()| self.out.write(&bytes))
                    .map_err(failed)?;
            }
        }
        let bytes = self.out.finish().map_err(failed)?;
        let about = Super {
            inodes: self.inodes.into(),
            blocks: (bytes / BLOCK) as u32,
            uuid,
        };
        let checksum = about.write(&mut first);
        self.out.patch(0, &first).map_err(failed)?;
        let stat = Stat::of(self.out.file()).map_err(failed)?;
        Ok(Made {
            contents: self.contents(&present, stat.bytes),
            image: Some(ImageFile {
                bytes,
                checksum,
                modified: Some((stat.mtime.tv_sec, stat.mtime.tv_nsec)),
            }),
        })
    }

    /// What the layer's record tells of it.
    fn contents(&self, present: &[bool], bytes: u64) -> Contents {
        let paths = |wanted: fn(&super::tree::Directory) -> bool| {
            let all = self.tree.directories.iter();
            let found = all.filter(|directory| present[directory.node as usize] && wanted(directory));
            let mut paths: Vec<LayerPath> = found.map(|directory| self.tree.path(directory.node)).collect();
            paths.sort();
            paths
        };
        Contents {
            usage: Usage { bytes, inodes: 1 },
            implied: paths(|directory| directory.implied),
            emptied: paths(|directory| directory.implied && directory.emptied),
            whiteouts: paths(|directory| directory.whiteouts),
            opaque_root: self.opaque_root,
        }
    }
}

/// Files with several names were written before all of those were known.
fn set_links(out: &Output, tree: &Tree, sorted: &[NodeId]) -> rustix::io::Result<()> {
    let nodes = sorted.iter().map(|id| tree.node(*id));
    let mut slots: Vec<u32> = nodes.filter(|node| node.shared).map(|node| node.slot).collect();
    slots.sort_unstable();
    for same in slots.chunk_by(|a, b| a == b).filter(|same| same.len() > 1) {
        let at = u64::from(same[0]) * SLOT + NLINK_AT;
        out.patch(at, &(same.len() as u32).to_le_bytes())?;
    }
    Ok(())
}

/// Finds a place for each directory: first all lists of names, then all inodes with the ends of the lists.
fn plan(lists: &Lists<'_>, present: &[bool], from: u64) -> Result<Vec<Plan>, ExtractError> {
    let mut plans = Vec::with_capacity(lists.tree.directories.len());
    let mut block = from / BLOCK;
    for directory in &lists.tree.directories {
        if !present[directory.node as usize] {
            plans.push(Plan::REMOVED);
            continue;
        }
        let mut plan = lists.measure(directory.node);
        let head = INODE + xattrs(lists, directory.node)?.len();
        let room = if directory.node == ROOT {
            ROOT_ROOM
        } else {
            BLOCK as usize
        };
        if directory.node == ROOT && head > room {
            let what = "bytes of extended attributes on a layer's root";
            return Err(ExtractError::limit(b"", what, (room - INODE) as u64));
        }
        if head + plan.tail as usize > room {
            plan.tail = 0;
        }
        plan.first = u32::try_from(block).map_err(|_| failed(Errno::FBIG))?;
        plan.slot = (format::ROOT as u64 / SLOT) as u32;
        block += plan.blocks();
        plans.push(plan);
    }
    let mut at = block * BLOCK;
    for (plan, directory) in plans.iter_mut().zip(&lists.tree.directories).skip(1) {
        if plan.is_removed() {
            continue;
        }
        let head = INODE + xattrs(lists, directory.node)?.len();
        at = place(at, head, plan.tail as usize);
        plan.slot = u32::try_from(at / SLOT).map_err(|_| failed(Errno::FBIG))?;
        at += head as u64 + u64::from(plan.tail);
    }
    Ok(plans)
}

/// Writes the blocks of a list that do not lie behind its inode.
fn write_list(
    out: &mut Output,
    lists: &Lists<'_>,
    plans: &[Plan],
    number: usize,
    mut left: u64,
) -> rustix::io::Result<()> {
    if left == 0 {
        return Ok(());
    }
    lists.each_block(plans, number, |block| {
        if left > 0 {
            left -= 1;
            out.write(block)?;
            out.end_block()?;
        }
        Ok(())
    })
}

/// A directory's inode with its attributes and the end of its list.
fn inode(
    lists: &Lists<'_>,
    plans: &[Plan],
    number: usize,
    inode_number: u32,
) -> Result<Vec<u8>, ExtractError> {
    let (plan, directory) = (&plans[number], &lists.tree.directories[number]);
    let attributes = xattrs(lists, directory.node)?;
    let inode = Inode {
        kind: FileKind::Directory,
        layout: if plan.tail > 0 {
            Layout::Inline
        } else {
            Layout::Plain
        },
        mode: directory.mode,
        owner: directory.owner,
        mtime: directory.mtime,
        size: plan.size.into(),
        place: plan.first,
        links: plan.links,
        number: inode_number,
    };
    let mut bytes = inode.encode(attributes.len()).to_vec();
    bytes.extend_from_slice(&attributes);
    if plan.tail > 0 {
        let mut last = Vec::new();
        lists
            .each_block(plans, number, |block| {
                last.clear();
                last.extend_from_slice(block);
                Ok(())
            })
            .map_err(failed)?;
        bytes.append(&mut last);
    }
    Ok(bytes)
}

/// A directory's attributes, overlay's mark among them.
fn xattrs(lists: &Lists<'_>, node: NodeId) -> Result<Vec<u8>, ExtractError> {
    let Some(directory) = lists.tree.directory(node) else {
        return Ok(Vec::new());
    };
    let path = |xattrs: &[_]| xattr_bytes(lists.tree.path(node).bytes(), FileKind::Directory, xattrs);
    if !directory.opaque {
        return path(&directory.xattrs);
    }
    let mut all = directory.xattrs.clone();
    all.push((OPAQUE.as_bytes().to_vec(), b"y".to_vec()));
    path(&all)
}
