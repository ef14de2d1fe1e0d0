//! The file of an image while it is written: data in order, inodes in regions kept free between them.

use std::os::fd::OwnedFd;

use coracle_sys::write_out;
use rustix::fs::ftruncate;
use rustix::io::{Errno, Result, pwrite};

use super::format::{BLOCK, SLOT};

const BUFFER: usize = 256 << 10;
/// Inodes are written in pieces of this size: one system call for some hundred small files.
const REGION: usize = 64 << 10;
/// The disk begins to write as soon as there is so much: the sync at the end finds little left.
const WRITE_OUT: u64 = 8 << 20;
/// Inodes are numbered by 32 bits of slots.
const MOST_BYTES: u64 = SLOT << 32;

/// Where something that follows its inode goes: both in one block, or from a block's start.
pub(super) fn place(at: u64, head: usize, tail: usize) -> u64 {
    let at = at.next_multiple_of(SLOT);
    if at % BLOCK + (head + tail) as u64 <= BLOCK {
        at
    } else {
        at.next_multiple_of(BLOCK)
    }
}

/// Writes a file from its start to its end.
pub(super) struct Output {
    file: OwnedFd,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs.
    start: u64,
    /// Up to where the disk was told to write.
    begun: u64,
    region: Region,
}

/// A part of the file that is filled with inodes.
struct Region {
    start: u64,
    length: u64,
    bytes: Vec<u8>,
}

impl Output {
    /// Into an empty file, from its second block on.
    pub(super) fn new(file: OwnedFd) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(BUFFER),
            start: BLOCK,
            begun: 0,
            region: Region {
                start: BLOCK,
                length: 0,
                bytes: Vec::new(),
            },
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// The block that comes next; all before it must be whole.
    pub(super) fn block(&self) -> u32 {
        (self.position() / BLOCK) as u32
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.is_empty() && bytes.len() >= BUFFER / 2 {
            self.write_at(self.start, bytes)?;
            return self.advance(bytes.len() as u64);
        }
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
            if bytes.len() >= BUFFER / 2 {
                return self.write(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn zeros(&mut self, mut count: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let some = count.min(ZEROS.len() as u64);
            self.write(&ZEROS[..some as usize])?;
            count -= some;
        }
        Ok(())
    }

    /// Zeros up to a place ahead.
    pub(super) fn zeros_to(&mut self, position: u64) -> Result<()> {
        self.zeros(position.saturating_sub(self.position()))
    }

    pub(super) fn end_block(&mut self) -> Result<()> {
        self.zeros_to(self.position().next_multiple_of(BLOCK))
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.write_at(self.start, &self.buffer)?;
        let length = self.buffer.len() as u64;
        self.buffer.clear();
        self.advance(length)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.start += bytes;
        if self.start > MOST_BYTES {
            return Err(Errno::FBIG);
        }
        // A region that was given back may lie before what was begun.
        if self.start.saturating_sub(self.begun) >= WRITE_OUT {
            write_out::begin(&self.file, self.begun, self.start - self.begun)?;
            self.begun = self.start;
        }
        Ok(())
    }

    fn write_at(&self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match pwrite(&self.file, bytes, at) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    at += written as u64;
                    bytes = &bytes[written..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether the block in which the next inode goes has room for all of this.
    pub(super) fn fits(&self, length: usize) -> bool {
        let at = (self.region.bytes.len() as u64).next_multiple_of(SLOT);
        !at.is_multiple_of(BLOCK) && at % BLOCK + length as u64 <= BLOCK
    }

    /// Puts an inode and what follows it, `tail` of which must lie in one block, into a region. Gives the
    /// inode's slot. All data before must end with a block.
    pub(super) fn inode(&mut self, bytes: &[u8], tail: usize) -> Result<u32> {
        let head = bytes.len() - tail;
        let mut at = place(self.region.bytes.len() as u64, head, tail);
        if at + bytes.len() as u64 > self.region.length {
            self.end_region()?;
            let length = (bytes.len().next_multiple_of(BLOCK as usize)).max(REGION) as u64;
            self.flush()?;
            self.region = Region {
                start: self.start,
                length,
                bytes: std::mem::take(&mut self.region.bytes),
            };
            self.region.bytes.clear();
            self.advance(length)?;
            at = 0;
        }
        self.region.bytes.resize(at as usize, 0);
        self.region.bytes.extend_from_slice(bytes);
        Ok(((self.region.start + at) / SLOT) as u32)
    }

    /// Writes the region. What it does not use is given back where nothing was written after it.
    pub(super) fn end_region(&mut self) -> Result<()> {
        let used = (self.region.bytes.len() as u64).next_multiple_of(BLOCK);
        self.region.bytes.resize(used as usize, 0);
        self.write_at(self.region.start, &self.region.bytes)?;
        if self.buffer.is_empty() && self.start == self.region.start + self.region.length {
            self.start = self.region.start + used;
        }
        self.region.start += used;
        self.region.length -= used;
        self.region.bytes.clear();
        Ok(())
    }

    /// Changes what was written, outside of the region that is being filled.
    pub(super) fn patch(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.write_at(at, bytes)
    }

    /// Ends the file; gives its size.
    pub(super) fn finish(&mut self) -> Result<u64> {
        self.end_region()?;
        self.end_block()?;
        self.flush()?;
        ftruncate(&self.file, self.start)?;
        Ok(self.start)
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }
}
