//! Sparse files: GNU's old header, and the three PAX forms (0.0, 0.1, 1.0) of GNU tar's manual.

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::header::number;
use super::pax::decimal;
use super::{Archive, BLOCK, Kind};
use crate::extract::ExtractError;
use crate::limits::Limits;

/// Data of a sparse file: all else is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// `GNU.sparse.*` records.
#[derive(Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    real_size: Option<u64>,
    segments: Vec<Segment>,
    /// Form 0.0 gives a segment in two records.
    offset: Option<u64>,
}

impl PaxSparse {
    pub(super) fn take(
        &mut self,
        entry: &[u8],
        key: &[u8],
        value: &[u8],
        limits: &Limits,
    ) -> Result<(), ExtractError> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(decimal(entry, value)?),
            b"minor" => self.minor = Some(decimal(entry, value)?),
            b"size" | b"realsize" => self.real_size = Some(decimal(entry, value)?),
            b"offset" => match self.offset.replace(decimal(entry, value)?) {
                None => {}
                Some(_) => return Err(malformed(entry)),
            },
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| malformed(entry))?;
                let length = decimal(entry, value)?;
                push(entry, &mut self.segments, Segment { offset, length }, limits)?;
            }
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',').map(|part| decimal(entry, part));
                while let Some(offset) = numbers.next() {
                    let (offset, length) = (offset?, numbers.next().ok_or_else(|| malformed(entry))??);
                    push(entry, &mut self.segments, Segment { offset, length }, limits)?;
                }
            }
            // The number of segments is told twice; what is there counts.
            _ => {}
        }
        Ok(())
    }
}

/// A file described by `GNU.sparse.*` records; `data` bytes of content follow in the archive.
pub(super) fn from_pax(
    archive: &mut Archive<'_>,
    path: &[u8],
    map: PaxSparse,
    data: u64,
) -> Result<Kind, ExtractError> {
    if map.offset.is_some() {
        return Err(malformed(path));
    }
    let real_size = map.real_size.ok_or_else(|| malformed(path))?;
    let (segments, data) = match (map.major.unwrap_or(0), map.minor.unwrap_or(0)) {
        (0, _) => (map.segments, data),
        (1, 0) if map.segments.is_empty() => {
            let (segments, taken) = map_before_data(archive, path)?;
            (segments, data.checked_sub(taken).ok_or_else(|| malformed(path))?)
        }
        (major, minor) => {
            return Err(ExtractError::refused(
                path,
                format!("sparse format {major}.{minor} is unknown"),
            ));
        }
    };
    checked(archive.limits, path, real_size, segments, data)
}

/// Form 1.0: decimal lines before the data, filled up to a block. Gives the bytes that it took, too.
fn map_before_data(archive: &mut Archive<'_>, path: &[u8]) -> Result<(Vec<Segment>, u64), ExtractError> {
    let before = archive.remaining;
    let mut block = Vec::new();
    let mut at = 0;
    let mut line = |archive: &mut Archive<'_>| -> Result<u64, ExtractError> {
        let mut digits = Vec::with_capacity(20);
        loop {
            if at == block.len() {
                block.clear();
                at = 0;
                while block.len() < BLOCK {
                    let want = BLOCK - block.len();
                    let chunk = archive.data(want)?;
                    if chunk.is_empty() {
                        return Err(malformed(path));
                    }
                    block.extend_from_slice(chunk);
                }
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return decimal(path, &digits),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(malformed(path)),
            }
        }
    };
    let count = line(archive)?;
    if count > archive.limits.sparse_segments as u64 {
        let limit = archive.limits.sparse_segments as u64;
        return Err(ExtractError::limit(path, "segments in a sparse file", limit));
    }
    let mut segments = Vec::new();
    for _ in 0..count {
        let (offset, length) = (line(archive)?, line(archive)?);
        push(path, &mut segments, Segment { offset, length }, archive.limits)?;
    }
    Ok((segments, before - archive.remaining))
}

/// A file of type `S`: four segments in its header, the others in blocks after it.
pub(super) fn from_gnu_header(
    archive: &mut Archive<'_>,
    header: &Header,
    path: &[u8],
    data: u64,
) -> Result<Kind, ExtractError> {
    let gnu = header.as_gnu().ok_or_else(|| malformed(path))?;
    let real_size = number(&gnu.realsize)
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| malformed(path))?;
    let mut segments = Vec::new();
    take_slots(path, &gnu.sparse, &mut segments, archive.limits)?;
    let mut more = gnu.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        archive
            .block(block.as_mut_bytes())?
            .ok_or(ExtractError::Truncated)?;
        let before = segments.len();
        take_slots(path, block.sparse(), &mut segments, archive.limits)?;
        more = block.is_extended();
        // Blocks without segments could go on for ever.
        if more && segments.len() == before {
            return Err(malformed(path));
        }
    }
    checked(archive.limits, path, real_size, segments, data)
}

fn take_slots(
    path: &[u8],
    slots: &[GnuSparseHeader],
    segments: &mut Vec<Segment>,
    limits: &Limits,
) -> Result<(), ExtractError> {
    for slot in slots.iter().take_while(|slot| !slot.is_empty()) {
        let part = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        let (offset, length) = part(&slot.offset)
            .zip(part(&slot.numbytes))
            .ok_or_else(|| malformed(path))?;
        push(path, segments, Segment { offset, length }, limits)?;
    }
    Ok(())
}

fn push(
    path: &[u8],
    segments: &mut Vec<Segment>,
    segment: Segment,
    limits: &Limits,
) -> Result<(), ExtractError> {
    if segments.len() >= limits.sparse_segments {
        let limit = limits.sparse_segments as u64;
        return Err(ExtractError::limit(path, "segments in a sparse file", limit));
    }
    segments.push(segment);
    Ok(())
}

/// Segments in order, apart, inside the file, and together as long as the data that follows.
fn checked(
    limits: &Limits,
    path: &[u8],
    real_size: u64,
    mut segments: Vec<Segment>,
    data: u64,
) -> Result<Kind, ExtractError> {
    if real_size > limits.sparse_file_bytes {
        return Err(ExtractError::limit(
            path,
            "bytes in a sparse file",
            limits.sparse_file_bytes,
        ));
    }
    let (mut end, mut sum) = (0_u64, 0_u64);
    let mut aligned = true;
    for segment in &segments {
        let next = segment
            .offset
            .checked_add(segment.length)
            .ok_or_else(|| malformed(path))?;
        // GNU tar starts each segment at a block, others do not: only whole blocks mean one thing.
        if segment.offset < end || next > real_size || (segment.length > 0 && !aligned) {
            return Err(malformed(path));
        }
        aligned = segment.length % BLOCK as u64 == 0;
        end = next;
        sum += segment.length;
    }
    if sum != data {
        return Err(malformed(path));
    }
    segments.retain(|segment| segment.length > 0);
    Ok(Kind::Sparse { real_size, segments })
}

fn malformed(path: &[u8]) -> ExtractError {
    ExtractError::refused(path, "its map of a sparse file is malformed")
}
