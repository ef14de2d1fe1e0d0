//! A layer's blob on its way to the unpacker: digest, length, compression and budget in one pass.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use coracle_types::{Digest, Kind, Kinded};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

mod ahead;
mod frames;

pub(crate) use ahead::Ahead;
pub(crate) use frames::Frames;

/// Why a blob is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// A kind of layer that cannot be unpacked.
    #[error("the layer's media type {media_type:?} is not supported")]
    MediaType {
        /// As the manifest has it, cut.
        media_type: String,
    },
    /// Media type and content disagree.
    #[error("the layer is announced as {announced} and is {found}")]
    Compression {
        /// By its media type.
        announced: &'static str,
        /// By its first bytes.
        found: &'static str,
    },
    /// The content is not that which the digest names.
    #[error("the content is damaged or false: expected {expected}, got {found}")]
    Digest {
        /// Of the manifest.
        expected: Digest,
        /// Of what came.
        found: Digest,
    },
    /// The content is longer or shorter than announced.
    #[error("the content is {found} bytes long and was announced with {expected}")]
    Length {
        /// Of the manifest.
        expected: u64,
        /// Of what came.
        found: u64,
    },
    /// The decoder would need more memory than a layer may have.
    #[error(
        "the layer needs a window of {window} bytes to be decompressed, the limit is {limit}: compress it at \
         zstd's level 20 or lower"
    )]
    Window {
        /// Bytes.
        window: u64,
        /// Bytes.
        limit: u64,
    },
    /// The image inflates to more than is allowed.
    #[error("the image unpacks to more than {limit} bytes: raise the limit if it is meant to")]
    Budget {
        /// Bytes.
        limit: u64,
    },
}

impl Kinded for BlobError {
    fn kind(&self) -> Kind {
        match self {
            Self::Budget { .. } | Self::Window { .. } => Kind::ResourceExhausted,
            Self::MediaType { .. } | Self::Compression { .. } => Kind::InvalidArgument,
            Self::Digest { .. } | Self::Length { .. } => Kind::RegistryUnavailable,
        }
    }
}

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "not compressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What a layer's media type announces.
    pub(crate) fn announced(media_type: &str) -> Result<Self, BlobError> {
        const BASES: [&str; 4] = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ];
        let suffix = BASES.iter().find_map(|base| media_type.strip_prefix(base));
        match suffix {
            Some("") => Ok(Self::Plain),
            Some("+gzip" | ".gzip") => Ok(Self::Gzip),
            Some("+zstd" | ".zstd") => Ok(Self::Zstd),
            _ => Err(BlobError::MediaType {
                media_type: media_type.chars().take(80).collect(),
            }),
        }
    }

    /// What the first bytes say (RFC 1952 2.3.1, RFC 8878 3.1).
    fn detect(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Bytes that may still be unpacked; shared by all layers of an image.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicU64,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            left: AtomicU64::new(limit),
            limit,
        }
    }

    fn take(&self, bytes: u64) -> Result<(), BlobError> {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        taken
            .map(|_| ())
            .map_err(|_| BlobError::Budget { limit: self.limit })
    }
}

/// The reading end of a bounded channel of chunks; belongs to a thread that may block.
pub(crate) struct Chunks {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Chunks {
    pub(crate) fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            current: Bytes::new(),
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

enum Decoder {
    Plain(Ahead),
    Gzip(Box<MultiGzDecoder<Ahead>>),
    Zstd(Box<Frames<Ahead>>),
}

impl Decoder {
    fn source(&mut self) -> &mut Ahead {
        match self {
            Self::Plain(source) => source,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

/// A layer's uncompressed archive. Its end is only shown once the blob's length and digest are
/// right, so that nothing is published of a blob that is not the manifest's.
pub(crate) struct LayerReader {
    decoder: Decoder,
    expected: (Digest, u64),
    budget: Arc<Budget>,
    /// Why reading ended, when it did so for a reason of this module.
    refusal: Option<BlobError>,
    ended: bool,
}

impl LayerReader {
    /// Looks at the blob's first bytes. `announced` is what they must agree with, if anything; an
    /// empty blob agrees with all.
    pub(crate) fn new(
        mut source: Ahead,
        expected: (Digest, u64),
        announced: Option<Compression>,
        budget: Arc<Budget>,
    ) -> io::Result<Self> {
        let first = source.fill_buf()?;
        let found = Compression::detect(first);
        let refusal = match announced {
            Some(announced) if announced != found && !first.is_empty() => Some(BlobError::Compression {
                announced: announced.name(),
                found: found.name(),
            }),
            _ => None,
        };
        let decoder = match found {
            _ if refusal.is_some() => Decoder::Plain(source),
            Compression::Plain => Decoder::Plain(source),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => Decoder::Zstd(Box::new(Frames::new(source)?)),
        };
        Ok(Self {
            decoder,
            expected,
            budget,
            refusal,
            ended: false,
        })
    }

    /// Why the layer is refused, once unpacking has failed: reads on to the blob's end to tell a
    /// damaged blob from an archive that is wrong in itself; `None` for the latter.
    pub(crate) fn verdict(&mut self) -> Option<BlobError> {
        let clear = matches!(
            self.refusal,
            Some(BlobError::Budget { .. } | BlobError::Digest { .. } | BlobError::Length { .. })
        );
        if !clear && let Err(damage) = self.verify() {
            return Some(damage);
        }
        self.refusal.clone()
    }

    fn verify(&mut self) -> Result<(), BlobError> {
        let (digest, length) = self.expected.clone();
        let found = self.decoder.source().finish();
        let (found_digest, found_length) = found.map_err(|_| BlobError::Length {
            expected: length,
            found: 0,
        })?;
        if found_length != length {
            return Err(BlobError::Length {
                expected: length,
                found: found_length,
            });
        }
        if found_digest != digest {
            return Err(BlobError::Digest {
                expected: digest,
                found: found_digest,
            });
        }
        Ok(())
    }

    /// Keeps why a frame is refused; other errors are what they are.
    fn refuse_window(&mut self, error: io::Error) -> io::Error {
        let refusal = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<BlobError>());
        match refusal.cloned() {
            Some(refusal) => self.refuse(refusal),
            None => error,
        }
    }

    fn refuse(&mut self, refusal: BlobError) -> io::Error {
        let error = io::Error::new(io::ErrorKind::InvalidData, refusal.clone());
        self.refusal = Some(refusal);
        error
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(refusal) = &self.refusal {
            return Err(io::Error::new(io::ErrorKind::InvalidData, refusal.clone()));
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let count = match &mut self.decoder {
            Decoder::Plain(source) => source.read(buffer)?,
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(decoder) => match decoder.read(buffer) {
                Ok(count) => count,
                Err(error) => return Err(self.refuse_window(error)),
            },
        };
        if count == 0 {
            self.verify().map_err(|refusal| self.refuse(refusal))?;
            self.ended = true;
        } else {
            let budget = self.budget.take(count as u64);
            budget.map_err(|refusal| self.refuse(refusal))?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sha2::{Digest as _, Sha256};

    use super::*;

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_sha256(&Sha256::digest(bytes).into())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(blob: &[u8], announced: Option<Compression>, limit: u64) -> Result<Vec<u8>, BlobError> {
        let expected = (digest(blob), blob.len() as u64);
        read_as(blob, expected, announced, limit)
    }

    fn read_as(
        blob: &[u8],
        expected: (Digest, u64),
        announced: Option<Compression>,
        limit: u64,
    ) -> Result<Vec<u8>, BlobError> {
        let (sender, receiver) = mpsc::channel(blob.len() + 1);
        for chunk in blob.chunks(3) {
            sender.try_send(Bytes::copy_from_slice(chunk)).unwrap();
        }
        drop(sender);
        let budget = Arc::new(Budget::new(limit));
        std::thread::scope(|scope| {
            let ahead = Ahead::start(scope, Chunks::new(receiver), expected.1).unwrap();
            let mut reader = LayerReader::new(ahead, expected, announced, budget).unwrap();
            let mut out = Vec::new();
            match reader.read_to_end(&mut out) {
                Ok(_) => Ok(out),
                Err(error) => Err(reader.verdict().unwrap_or_else(|| panic!("no verdict: {error}"))),
            }
        })
    }

    #[test]
    fn a_layer_may_have_a_large_window_and_not_a_huge_one() {
        let text = b"a layer's archive".repeat(2000);
        for (log, right) in [(23, true), (25, true), (26, false)] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&text).unwrap();
            let read = read(&encoder.finish().unwrap(), Some(Compression::Zstd), 1 << 20);
            match read {
                Ok(read) => assert!(right && read == text, "{log}"),
                Err(error) => assert!(!right && matches!(error, BlobError::Window { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn every_compression_is_seen_by_its_first_bytes() {
        let text = b"a layer's archive".repeat(20);
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        let mut two_members = gzip(&text[..100]);
        two_members.extend(gzip(&text[100..]));
        for (blob, announced) in [
            (text.clone(), Compression::Plain),
            (gzip(&text), Compression::Gzip),
            (two_members, Compression::Gzip),
            (zstd, Compression::Zstd),
        ] {
            assert_eq!(read(&blob, Some(announced), 1 << 20).unwrap(), text);
            assert_eq!(read(&blob, None, 1 << 20).unwrap(), text);
        }
        assert_eq!(read(b"", Some(Compression::Gzip), 0).unwrap(), b"");
    }

    #[test]
    fn media_type_and_content_must_agree() {
        let error = read(&gzip(b"x"), Some(Compression::Plain), 100).unwrap_err();
        assert_eq!(
            error,
            BlobError::Compression {
                announced: "not compressed",
                found: "gzip"
            }
        );
        assert_eq!(
            Compression::announced("application/vnd.oci.image.layer.v1.tar+zstd"),
            Ok(Compression::Zstd)
        );
        assert!(Compression::announced("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").is_err());
    }

    #[test]
    fn a_blob_that_is_not_the_manifest_s_has_no_end() {
        let blob = gzip(b"content");
        let right = (digest(&blob), blob.len() as u64);
        let other = (digest(b"other"), right.1);
        let error = read_as(&blob, other, None, 100).unwrap_err();
        assert!(matches!(error, BlobError::Digest { .. }));
        for length in [right.1 - 1, right.1 + 1] {
            let error = read_as(&blob, (right.0.clone(), length), None, 100).unwrap_err();
            assert!(matches!(error, BlobError::Length { .. }), "{length}");
        }
        let mut trailing = blob.clone();
        trailing.extend_from_slice(b"more");
        assert!(matches!(
            read_as(&trailing, right.clone(), None, 100),
            Err(BlobError::Length { .. })
        ));
        let cut = &blob[..blob.len() - 4];
        assert!(matches!(
            read_as(cut, right, None, 100),
            Err(BlobError::Length { .. })
        ));
    }

    #[test]
    fn a_bomb_ends_at_the_budget() {
        let bomb = gzip(&vec![0_u8; 1 << 20]);
        let error = read(&bomb, None, 1 << 16).unwrap_err();
        assert_eq!(error, BlobError::Budget { limit: 1 << 16 });
    }
}
