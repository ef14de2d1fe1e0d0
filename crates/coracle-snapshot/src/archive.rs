//! Reads a layer's tar archive as a sequence of entries, refusing whatever two readers could read
//! differently.
//!
//! The `tar` crate gives the layout of a header block and nothing else. Where GNU tar, libarchive and Go
//! disagree about an archive (which size counts, whose name wins), it is refused: else a scanner and a
//! node could see different files in one layer (class CVE-2025-62518).

mod feed;
mod header;
mod pax;
mod sparse;

pub(crate) use feed::{Feed, with_feed};
pub(crate) use sparse::Segment;

use rustix::fs::Timespec;
use tar::{EntryType, Header};

use crate::extract::ExtractError;
use crate::limits::Limits;
use pax::Pax;

const BLOCK: usize = 512;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Sparse { real_size: u64, segments: Vec<Segment> },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Directory,
    Fifo,
}

/// An entry of an archive as its headers tell it; paths are as they were written.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// The twelve permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive being read.
pub(crate) struct Archive<'l> {
    feed: Feed,
    limits: &'l Limits,
    entries: u64,
    /// Data of the current entry that was not taken yet.
    remaining: u64,
    /// Zeros after that data, up to a block's end.
    padding: usize,
}

/// Extension headers met before the entry that they describe.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'l> Archive<'l> {
    pub(crate) fn new(feed: Feed, limits: &'l Limits) -> Self {
        Self {
            feed,
            limits,
            entries: 0,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` after the last. Data of the entry before that was not taken is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ExtractError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.next_header()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(ExtractError::refused(
                    b"",
                    "the archive ends after an extension header",
                ));
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(ExtractError::limit(
                    &header.path_bytes(),
                    "entries",
                    self.limits.entries,
                ));
            }
            if !self.take_extension(&header, &mut extensions)? {
                return self.entry(&header, extensions).map(Some);
            }
        }
    }

    /// Some of the current entry's data, at most `most` bytes of it; empty at its end.
    pub(crate) fn data(&mut self, most: usize) -> Result<&[u8], ExtractError> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(most);
        if most == 0 {
            return Ok(&[]);
        }
        let chunk = self.feed.take(most)?;
        if chunk.is_empty() {
            return Err(ExtractError::Truncated);
        }
        self.remaining -= chunk.len() as u64;
        Ok(chunk)
    }

    /// Bytes of the current entry's data that were not taken yet.
    pub(crate) fn data_left(&self) -> u64 {
        self.remaining
    }

    /// Reads what follows the archive's end, so that the digest covers the whole stream.
    pub(crate) fn drain(mut self) -> Result<(), ExtractError> {
        while !self.feed.take(usize::MAX)?.is_empty() {}
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), ExtractError> {
        while self.remaining > 0 {
            self.data(usize::MAX)?;
        }
        while self.padding > 0 {
            let taken = self.feed.take(self.padding)?.len();
            if taken == 0 {
                return Err(ExtractError::Truncated);
            }
            self.padding -= taken;
        }
        Ok(())
    }

    fn expect_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize;
    }

    /// A whole block; `None` at the stream's end.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<Option<()>, ExtractError> {
        let mut filled = 0;
        while filled < BLOCK {
            let chunk = self.feed.take(BLOCK - filled)?;
            if chunk.is_empty() {
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(ExtractError::Truncated)
                };
            }
            block[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
        }
        Ok(Some(()))
    }

    /// The next header whose checksum is right; `None` at the archive's end: two blocks of zeros, or the
    /// end of the stream, which GNU tar takes for one.
    fn next_header(&mut self) -> Result<Option<Header>, ExtractError> {
        let mut header = Header::new_old();
        if self.block(header.as_mut_bytes())?.is_none() {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            if self.block(header.as_mut_bytes())?.is_none() || header.as_bytes().iter().all(|byte| *byte == 0)
            {
                return Ok(None);
            }
            return Err(ExtractError::refused(
                &header.path_bytes(),
                "it follows a lone block of zeros",
            ));
        }
        if !header::checksum_is_right(&header) {
            return Err(ExtractError::refused(
                &header.path_bytes(),
                "its header's checksum is wrong",
            ));
        }
        Ok(Some(header))
    }

    /// Takes an extension header into `extensions`; false when `header` is an entry's own.
    fn take_extension(&mut self, header: &Header, extensions: &mut Extensions) -> Result<bool, ExtractError> {
        let kind = header.entry_type();
        let (most, slot_is_taken) = match kind {
            EntryType::XHeader => (self.limits.extended_header_bytes, extensions.pax.is_some()),
            EntryType::XGlobalHeader => (self.limits.extended_header_bytes, false),
            EntryType::GNULongName => (self.limits.path_bytes as u64 + 1, extensions.long_name.is_some()),
            EntryType::GNULongLink => (self.limits.path_bytes as u64 + 1, extensions.long_link.is_some()),
            _ => return Ok(false),
        };
        let name = header.path_bytes();
        if slot_is_taken {
            return Err(ExtractError::refused(
                &name,
                "two extension headers of one kind describe one entry",
            ));
        }
        // An extension header's size is in its own block: a PAX size describes the entry after it.
        let size = header::size(header)?;
        if size > most {
            return Err(ExtractError::limit(&name, "bytes in an extension header", most));
        }
        self.expect_data(size);
        let mut content = Vec::with_capacity(size as usize);
        while self.remaining > 0 {
            content.extend_from_slice(self.data(usize::MAX)?);
        }
        match kind {
            EntryType::XHeader => extensions.pax = Some(Pax::parse(&name, &content, self.limits)?),
            EntryType::XGlobalHeader => Pax::refuse_global(&name, &content, self.limits)?,
            EntryType::GNULongName => extensions.long_name = Some(header::until_nul(content)),
            _ => extensions.long_link = Some(header::until_nul(content)),
        }
        Ok(true)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, ExtractError> {
        let Extensions {
            pax,
            long_name,
            long_link,
        } = extensions;
        let mut pax = pax.unwrap_or_default();
        let sparse_pax = pax.sparse.take();
        let own = header.path_bytes();
        let path = one_name(&own, pax.path.take(), long_name)?.unwrap_or_else(|| own.to_vec());
        let path = match sparse_pax.as_ref().and_then(|sparse| sparse.name.clone()) {
            Some(real) => real,
            None => path,
        };
        self.check_path(&path, &path)?;
        let link = one_name(&path, pax.linkpath.take(), long_link)?
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        self.check_path(&path, &link)?;

        let size = header::data_size(header, &path, pax.size)?;
        let kind = self.kind(header, &path, link, size)?;
        let holds_data = matches!(kind, Kind::File | Kind::Sparse { .. });
        if size != 0 && !holds_data {
            return Err(ExtractError::refused(
                &path,
                "only a regular file may have content",
            ));
        }
        let kind = match (kind, sparse_pax) {
            (kind, None) => kind,
            (Kind::File, Some(map)) => {
                let data = self.remaining;
                sparse::from_pax(self, &path, map, data)?
            }
            (_, Some(_)) => {
                return Err(ExtractError::refused(&path, "only a regular file may be sparse"));
            }
        };
        Ok(Entry {
            mode: header::mode(header, &path)?,
            uid: header::id(&path, pax.uid, &header.as_old().uid, "owner")?,
            gid: header::id(&path, pax.gid, &header.as_old().gid, "group")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => header::mtime(header, &path)?,
            },
            xattrs: pax.xattrs,
            path,
            kind,
        })
    }

    /// The kind by the header's type flag; the feed stands at the entry's data afterwards.
    fn kind(&mut self, header: &Header, path: &[u8], link: Vec<u8>, size: u64) -> Result<Kind, ExtractError> {
        let kind = match header.entry_type() {
            // Before ustar a directory was a file whose name ends in a slash; GNU tar still reads it so.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink(link),
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Char => {
                let (major, minor) = header::device(header, path)?;
                Kind::Character { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = header::device(header, path)?;
                Kind::Block { major, minor }
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            EntryType::GNUSparse => {
                let kind = sparse::from_gnu_header(self, header, path, size)?;
                self.expect_data(size);
                return Ok(kind);
            }
            other => {
                let flag = other.as_byte().escape_ascii();
                return Err(ExtractError::refused(
                    path,
                    format!("entries of type '{flag}' are none that a layer may have"),
                ));
            }
        };
        self.expect_data(size);
        Ok(kind)
    }

    fn check_path(&self, entry: &[u8], path: &[u8]) -> Result<(), ExtractError> {
        if path.len() > self.limits.path_bytes {
            return Err(ExtractError::limit(
                entry,
                "bytes in a path",
                self.limits.path_bytes as u64,
            ));
        }
        if path.contains(&0) {
            return Err(ExtractError::refused(entry, "a path contains a zero byte"));
        }
        Ok(())
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// A name may come from a PAX record or from a GNU header; readers differ in which one wins.
fn one_name(
    entry: &[u8],
    pax: Option<Vec<u8>>,
    gnu: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, ExtractError> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(ExtractError::refused(
            entry,
            "a PAX header and a GNU header give it different names",
        )),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}
