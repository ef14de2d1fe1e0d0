//! An image while it is made: each file's data and inode go out as they come, the tree of names stays in
//! memory.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::Timespec;

use super::format::{self, BLOCK, FileKind, HOLE, INODE, Inode, Layout};
use super::output::Output;
use super::tree::{Kind, NodeId, Tree};
use crate::archive::{Archive, Segment};
use crate::extract::{Attributes, ExtractError, LayerPath};
use crate::limits::Limits;

/// A last piece up to this goes behind its inode even where that leaves more than it free in the block
/// before.
const SMALL_TAIL: usize = 2048;
/// What the holes of sparse files may cost in one layer: zeros around scattered data, and maps.
const MOST_HOLE_BYTES: u64 = 1 << 30;
/// Chunks of one file; the map of so many is 16 MiB, and held in memory.
const MOST_CHUNKS: u64 = 4 << 20;
const LARGEST_CHUNK_BITS: u32 = 30;

pub(super) const WRITE: &str = "write the layer's image";

/// What fills a file, a piece at a time.
pub(super) trait Source {
    /// At most `most` bytes; none at the end.
    fn next(&mut self, most: usize) -> Result<&[u8], ExtractError>;
}

impl Source for Archive<'_> {
    fn next(&mut self, most: usize) -> Result<&[u8], ExtractError> {
        self.data(most)
    }
}

/// Where an inode's data is.
pub(super) enum Body {
    Device(u32),
    /// Whole blocks from `first` on, and a last piece that is written nowhere yet.
    Blocks {
        size: u64,
        first: u32,
        tail: Vec<u8>,
    },
    Chunks {
        size: u64,
        form: u32,
        map: Vec<u8>,
    },
}

/// A layer on its way into an image.
pub(crate) struct Image {
    pub(super) out: Output,
    pub(super) tree: Tree,
    /// Names that stand for hard links into lower layers, with what each names.
    pub(super) lower_links: BTreeMap<NodeId, LayerPath>,
    pub(super) opaque_root: bool,
    /// The inode that all whiteouts share.
    pub(super) whiteout: Option<u32>,
    /// The directory that was found last.
    pub(super) last: Option<(LayerPath, NodeId)>,
    pub(super) inodes: u32,
    hole_bytes: u64,
}

impl Image {
    /// Into `file`, which is empty.
    pub(crate) fn new(file: OwnedFd, limits: &Limits) -> Self {
        Self {
            out: Output::new(file),
            tree: Tree::new(limits),
            lower_links: BTreeMap::new(),
            opaque_root: false,
            whiteout: None,
            last: None,
            inodes: 0,
            hole_bytes: 0,
        }
    }

    /// Writes an inode with what belongs behind it; gives its slot.
    pub(super) fn put(
        &mut self,
        entry: &[u8],
        kind: FileKind,
        attributes: &Attributes,
        mtime: Timespec,
        body: Body,
    ) -> Result<u32, ExtractError> {
        let xattrs = xattr_bytes(entry, kind, &attributes.xattrs)?;
        let head = INODE + xattrs.len();
        let failed = |errno| ExtractError::io(entry, WRITE)(errno);
        let (layout, size, place, behind, tail) = match body {
            Body::Device(number) => (Layout::Plain, 0, number, Vec::new(), 0),
            Body::Chunks { size, form, map } => (Layout::Chunked, size, form, map, 0),
            Body::Blocks { size, first, tail } => {
                let together = head + tail.len();
                let small = tail.len() <= SMALL_TAIL && together as u64 <= BLOCK;
                if !tail.is_empty() && (small || self.out.fits(together)) {
                    let length = tail.len();
                    (Layout::Inline, size, first, tail, length)
                } else {
                    self.out.write(&tail).map_err(failed)?;
                    self.out.end_block().map_err(failed)?;
                    (Layout::Plain, size, first, Vec::new(), 0)
                }
            }
        };
        self.inodes += 1;
        let inode = Inode {
            kind,
            layout,
            mode: attributes.mode,
            owner: (attributes.uid, attributes.gid),
            mtime,
            size,
            place,
            links: 1,
            number: self.inodes,
        };
        let mut bytes = Vec::with_capacity(head + behind.len());
        bytes.extend_from_slice(&inode.encode(xattrs.len()));
        bytes.extend_from_slice(&xattrs);
        bytes.extend_from_slice(&behind);
        self.out.inode(&bytes, tail).map_err(failed)
    }

    /// Takes a file's content, `size` bytes of it.
    pub(super) fn take(
        &mut self,
        entry: &[u8],
        size: u64,
        source: &mut impl Source,
    ) -> Result<Body, ExtractError> {
        let tail = (size % BLOCK) as usize;
        let first = self.out.block();
        self.copy(entry, size - tail as u64, source)?;
        let mut last = Vec::with_capacity(tail);
        while last.len() < tail {
            let piece = source.next(tail - last.len())?;
            if piece.is_empty() {
                return Err(ExtractError::Truncated);
            }
            last.extend_from_slice(piece);
        }
        Ok(Body::Blocks {
            size,
            first,
            tail: last,
        })
    }

    fn copy(&mut self, entry: &[u8], mut length: u64, source: &mut impl Source) -> Result<(), ExtractError> {
        while length > 0 {
            let piece = source.next(usize::try_from(length).unwrap_or(usize::MAX))?;
            if piece.is_empty() {
                return Err(ExtractError::Truncated);
            }
            self.out.write(piece).map_err(ExtractError::io(entry, WRITE))?;
            length -= piece.len() as u64;
        }
        Ok(())
    }

    /// Takes a sparse file's segments. The chunk that makes zeros and map smallest is chosen; scattered data
    /// that would cost too much is refused.
    pub(super) fn take_sparse(
        &mut self,
        entry: &[u8],
        size: u64,
        segments: &[Segment],
        archive: &mut Archive<'_>,
    ) -> Result<Body, ExtractError> {
        let data: u64 = segments.iter().map(|segment| segment.length).sum();
        let (bits, cost) = (12..=LARGEST_CHUNK_BITS)
            .filter(|bits| size.div_ceil(1_u64 << *bits) <= MOST_CHUNKS)
            .map(|bits| {
                let written: u64 = runs(segments, bits)
                    .map(|(first, count)| bytes_of(first, count, bits, size))
                    .sum();
                (bits, written - data + size.div_ceil(1_u64 << bits) * 4)
            })
            .min_by_key(|(_, cost)| *cost)
            .ok_or_else(|| ExtractError::limit(entry, "bytes in a sparse file", MOST_CHUNKS << 30))?;
        self.hole_bytes = self.hole_bytes.saturating_add(cost);
        if self.hole_bytes > MOST_HOLE_BYTES {
            let what = "bytes of zeros and maps for the holes of its sparse files";
            return Err(ExtractError::limit(entry, what, MOST_HOLE_BYTES));
        }
        let failed = |errno| ExtractError::io(entry, WRITE)(errno);
        let chunks = size.div_ceil(1_u64 << bits) as usize;
        let mut map = vec![HOLE; chunks];
        let mut ahead = segments.iter().peekable();
        for (first, count) in runs(segments, bits) {
            let (begin, length) = (first << bits, bytes_of(first, count, bits, size));
            let block = self.out.block();
            for chunk in 0..count {
                map[(first + chunk) as usize] = block + (chunk << (bits - 12)) as u32;
            }
            let mut at = begin;
            while let Some(segment) = ahead.next_if(|segment| segment.offset < begin + length) {
                self.out.zeros(segment.offset - at).map_err(failed)?;
                self.copy(entry, segment.length, archive)?;
                at = segment.offset + segment.length;
            }
            self.out.zeros(begin + length - at).map_err(failed)?;
            self.out.end_block().map_err(failed)?;
        }
        Ok(Body::Chunks {
            size,
            form: bits - 12,
            map: map.iter().flat_map(|block| block.to_le_bytes()).collect(),
        })
    }

    pub(super) fn insert(
        &mut self,
        entry: &[u8],
        at: (NodeId, &[u8]),
        kind: FileKind,
        slot: u32,
    ) -> Result<NodeId, ExtractError> {
        self.tree.insert(entry, at, Kind::File(kind), slot, None)
    }
}

/// Attributes as they follow an inode. User attributes exist on files and directories only: the kernel shows
/// them nowhere else.
pub(super) fn xattr_bytes(
    entry: &[u8],
    kind: FileKind,
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> Result<Vec<u8>, ExtractError> {
    let takes_user = matches!(kind, FileKind::Regular | FileKind::Directory);
    let kept = xattrs
        .iter()
        .filter(|(name, _)| takes_user || !name.starts_with(b"user."))
        .map(|(name, value)| (&name[..], &value[..]));
    format::xattrs(kept).map_err(|format::TooLarge| {
        ExtractError::limit(entry, "bytes of extended attributes on one file", 65535)
    })
}

/// The chunks that hold data: the first of each run, and how many.
fn runs(segments: &[Segment], bits: u32) -> impl Iterator<Item = (u64, u64)> {
    let mut ahead = segments.iter().filter(|segment| segment.length > 0).peekable();
    std::iter::from_fn(move || {
        let last_of = |segment: &Segment| (segment.offset + segment.length - 1) >> bits;
        let segment = ahead.next()?;
        let (first, mut last) = (segment.offset >> bits, last_of(segment));
        while let Some(next) = ahead.next_if(|next| next.offset >> bits <= last + 1) {
            last = last_of(next);
        }
        Some((first, last - first + 1))
    })
}

/// What a run of chunks takes; the file's last one ends with the file.
fn bytes_of(first: u64, count: u64, bits: u32, size: u64) -> u64 {
    ((first + count) << bits).min(size) - (first << bits)
}
