//! Archives of images that are compressed as a whole, unpacked within bounds before they are looked into.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::assemble::Workshop;
use crate::decode::Frames;
use crate::error::Error;

const BUFFER: usize = 128 << 10;

/// The archive, or what it unpacks to when it is gzip or zstd; blocks.
pub(crate) fn inflated(file: File, path: &Path, workshop: &Workshop) -> Result<File, Error> {
    let refused = |reason: String| Error::Archive {
        path: path.to_owned(),
        reason,
    };
    let failed = |error: io::Error| refused(error.to_string());
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(file);
    }
    let mut first = [0_u8; 4];
    let count = file.read_at(&mut first, 0).map_err(failed)?;
    let mut source = file.try_clone().map_err(failed)?;
    source.rewind().map_err(failed)?;
    let source = BufReader::with_capacity(BUFFER, source);
    let limit = workshop.limits.unpacked;
    let mut reader: Box<dyn io::Read> = match &first[..count] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(Frames::new(source).map_err(failed)?),
        _ => return Ok(file),
    };
    let mut plain = workshop.content.unnamed()?;
    let unpacked = io::copy(&mut reader.by_ref().take(limit + 1), &mut plain)
        .and_then(|unpacked| plain.flush().map(|()| unpacked))
        .map_err(|error| refused(format!("it cannot be decompressed: {error}")))?;
    if unpacked > limit {
        return Err(refused(format!(
            "it unpacks to more than {limit} bytes (image.max_unpacked)"
        )));
    }
    plain.rewind().map_err(failed)?;
    Ok(plain)
}
