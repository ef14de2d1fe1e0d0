//! The parts of an EROFS image as bytes: superblock, inodes, extended attributes, directory blocks.
//!
//! After the kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. All numbers are
//! little-endian. An inode is named by its place: its byte offset divided by 32.

use rustix::fs::Timespec;

/// A block of every image made here.
pub(super) const BLOCK: u64 = 4096;
/// Inodes start at multiples of this.
pub(super) const SLOT: u64 = 32;
/// An inode of the extended form: 32-bit owners, 64-bit size, nanoseconds.
pub(super) const INODE: usize = 64;
/// Where the superblock starts.
pub(super) const SUPER: usize = 1024;
/// Where the root's inode is: its number has 16 bits only, so it lies behind the superblock.
pub(super) const ROOT: usize = SUPER + 256;
/// What the kernel says in statfs(2) of a mounted image.
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// `startblk` of a chunk that is a hole.
pub(super) const HOLE: u32 = u32::MAX;
/// A directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// An inode's attributes without the entries.
const XATTR_HEADER: usize = 12;
/// `i_xattr_icount` has 16 bits and counts words.
const MOST_XATTR_WORDS: usize = 65535;
/// Where an inode has its number of links.
pub(super) const NLINK_AT: u64 = 44;

const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED: u32 = 4;

/// How an inode's data lies in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In blocks that follow each other.
    Plain = 0,
    /// So, but for the last piece, which follows the inode.
    Inline = 2,
    /// In chunks, each of which may be a hole.
    Chunked = 4,
}

/// What a directory says that a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Regular = 1,
    Directory = 2,
    Character = 3,
    Block = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileKind {
    /// The bits of a mode that tell a file's type.
    fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Character => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// An inode in the extended form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    pub(super) layout: Layout,
    /// The twelve permission bits.
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Timespec,
    pub(super) size: u64,
    /// First block, device number or form of the chunks.
    pub(super) place: u32,
    pub(super) links: u32,
    /// For programs that know 32-bit inode numbers only.
    pub(super) number: u32,
}

impl Inode {
    /// As it lies in the image, before the attributes of `xattr_bytes`.
    pub(super) fn encode(&self, xattr_bytes: usize) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let words = match xattr_bytes {
            0 => 0,
            some => (some - XATTR_HEADER) / 4 + 1,
        };
        put(0, &(1 | (self.layout as u16) << 1).to_le_bytes());
        put(2, &u16::try_from(words).unwrap_or(u16::MAX).to_le_bytes());
        let mode = self.kind.mode_bits() | (self.mode & 0o7777) as u16;
        put(4, &mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.place.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.owner.0.to_le_bytes());
        put(28, &self.owner.1.to_le_bytes());
        put(32, &self.mtime.tv_sec.to_le_bytes());
        put(40, &(self.mtime.tv_nsec as u32).to_le_bytes());
        put(NLINK_AT as usize, &self.links.to_le_bytes());
        bytes
    }
}

/// Linux's 32-bit form of a device number.
pub(super) fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Why attributes cannot be kept in an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Extended attributes behind an inode; nothing for none.
pub(super) fn xattrs<'x>(
    attributes: impl Iterator<Item = (&'x [u8], &'x [u8])>,
) -> Result<Vec<u8>, TooLarge> {
    let mut bytes = Vec::new();
    for (name, value) in attributes {
        let Some((index, rest)) = prefix(name) else {
            continue;
        };
        if bytes.is_empty() {
            bytes.resize(XATTR_HEADER, 0);
        }
        bytes.push(u8::try_from(rest.len()).map_err(|_| TooLarge)?);
        bytes.push(index);
        bytes.extend_from_slice(&u16::try_from(value.len()).map_err(|_| TooLarge)?.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if (bytes.len() - XATTR_HEADER) / 4 + 1 > MOST_XATTR_WORDS {
            return Err(TooLarge);
        }
    }
    Ok(bytes)
}

/// A name's prefix as a number, and what follows it.
fn prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    [(&b"user."[..], 1), (&b"trusted."[..], 4), (&b"security."[..], 6)]
        .into_iter()
        .find_map(|(prefix, index)| Some((index, name.strip_prefix(prefix)?)))
}

/// A block of a directory: entries in the order of their names' bytes.
pub(super) struct DirectoryBlock {
    entries: Vec<u8>,
    names: Vec<u8>,
}

impl DirectoryBlock {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::with_capacity(1024),
            names: Vec::with_capacity(BLOCK as usize),
        }
    }

    /// Adds a name; there must be room for it.
    pub(super) fn push(&mut self, name: &[u8], slot: u64, kind: FileKind) {
        self.entries.extend_from_slice(&slot.to_le_bytes());
        // Of the name among the names, until it is known how many entries stand before them.
        self.entries
            .extend_from_slice(&(self.names.len() as u16).to_le_bytes());
        self.entries.extend_from_slice(&[kind as u8, 0]);
        self.names.extend_from_slice(name);
    }

    /// The block's bytes, as many as it uses; it is empty afterwards.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let before = self.entries.len() as u16;
        for entry in self.entries.chunks_exact_mut(DIRENT) {
            let at = u16::from_le_bytes([entry[8], entry[9]]) + before;
            entry[8..10].copy_from_slice(&at.to_le_bytes());
        }
        let mut block = std::mem::take(&mut self.entries);
        block.append(&mut self.names);
        block
    }
}

/// What the superblock says of the whole image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Super {
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// Differs from layer to layer: overlay tells file systems apart by it.
    pub(super) uuid: [u8; 16],
}

impl Super {
    /// Puts the superblock into an image's first block, which holds the root's inode already; gives the
    /// checksum of all that follows the superblock's start.
    pub(super) fn write(&self, block: &mut [u8]) -> u32 {
        let mut put = |at: usize, value: &[u8]| {
            block[SUPER + at..SUPER + at + value.len()].copy_from_slice(value);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK.trailing_zeros() as u8]);
        put(14, &((ROOT as u64 / SLOT) as u16).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &self.uuid);
        put(80, &INCOMPAT_CHUNKED.to_le_bytes());
        let checksum = checksum(&block[SUPER..]);
        block[SUPER + 4..SUPER + 8].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }
}

/// The checksum that an image's first block bears, if it is that of the block.
pub(crate) fn checked(block: &[u8; BLOCK as usize]) -> Option<u32> {
    let mut rest = block[SUPER..].to_vec();
    let magic = u32::from_le_bytes(rest[..4].try_into().ok()?);
    let stored = u32::from_le_bytes(rest[4..8].try_into().ok()?);
    rest[4..8].fill(0);
    (magic == MAGIC && checksum(&rest) == stored).then_some(stored)
}

/// CRC-32C without the last inversion, as EROFS has it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The standard's check value, before its last inversion.
        assert_eq!(!checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn devices_are_linuxs() {
        assert_eq!(device((1, 3)), 0x103);
        assert_eq!(u64::from(device((7, 300))), 0x0010_072c);
    }

    #[test]
    fn attributes_that_do_not_fit_are_refused() {
        let value = vec![0; 65535];
        let one = || (&b"user.a"[..], &value[..]);
        assert!(xattrs([one(); 3].into_iter()).is_ok());
        assert_eq!(xattrs([one(); 4].into_iter()), Err(TooLarge));
        let larger = vec![0; 65536];
        assert_eq!(xattrs([(&b"user.a"[..], &larger[..])].into_iter()), Err(TooLarge));
        assert_eq!(xattrs(std::iter::empty()), Ok(Vec::new()));
    }
}
