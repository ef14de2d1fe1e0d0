//! zstd's frames, one after the other, each with a window within bounds: a decoder sets aside what a frame asks
//! for, and the library's own limit is 128 MiB a layer.

use std::io::{self, BufRead, Read};
use std::sync::{Arc, LazyLock};

use tokio::sync::{Mutex, OwnedMutexGuard};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::BlobError;

/// A window that every zstd decoder must have (RFC 8878, 3.1.1.1.2) and that any layer may have.
const WINDOW: u64 = 8 << 20;
/// A larger window that one layer at a time may have: memory is bounded for the process, not for a layer.
const LARGE_WINDOW: u64 = 32 << 20;
static LARGE_WINDOWS: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);
/// The longest header of a frame: magic number, descriptor, window, dictionary's id, size.
const HEADER: usize = 18;

/// The window of a zstd frame (RFC 8878, 3.1.1.1); 0 for what is no such frame.
fn window(first: &[u8]) -> u64 {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = first else {
        return 0;
    };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let Some(window) = rest.first().map(|byte| u64::from(*byte)) else {
            return 0;
        };
        let base = 1_u64 << (10 + (window >> 3));
        return base + base / 8 * (window & 7);
    }
    // The whole content is the window; its size follows the dictionary's id.
    let skip = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let Some(bytes) = rest.get(skip..skip + length) else {
        return 0;
    };
    let mut size = [0; 8];
    size[..length].copy_from_slice(bytes);
    // A field of two bytes begins at 256.
    u64::from_le_bytes(size).saturating_add(if length == 2 { 256 } else { 0 })
}

/// What zstd's frames hold; blocks, also until no other layer has a large window.
pub(crate) struct Frames<R> {
    decoder: Decoder<'static>,
    source: R,
    /// The beginning of a frame, which may lie in several of the source's buffers.
    header: Vec<u8>,
    /// What of it the decoder has.
    taken: usize,
    between: bool,
    /// While it has memory for a large window: to its end.
    turn: Option<OwnedMutexGuard<()>>,
}

impl<R: BufRead> Frames<R> {
    pub(crate) fn new(source: R) -> io::Result<Self> {
        Ok(Self {
            decoder: Decoder::new()?,
            source,
            header: Vec::with_capacity(HEADER),
            taken: 0,
            between: true,
            turn: None,
        })
    }

    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// Looks at the next frame's header; false if there is no further frame.
    fn begin(&mut self) -> io::Result<bool> {
        self.header.drain(..self.taken);
        self.taken = 0;
        while self.header.len() < HEADER {
            let available = self.source.fill_buf()?;
            if available.is_empty() {
                break;
            }
            let count = available.len().min(HEADER - self.header.len());
            self.header.extend_from_slice(&available[..count]);
            self.source.consume(count);
        }
        if self.header.is_empty() {
            return Ok(false);
        }
        let window = window(&self.header);
        if window > LARGE_WINDOW {
            let limit = LARGE_WINDOW;
            let refusal = BlobError::Window { window, limit };
            return Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
        }
        if window > WINDOW && self.turn.is_none() {
            self.turn = Some(Arc::clone(&LARGE_WINDOWS).blocking_lock_owned());
        }
        let most = if self.turn.is_some() { LARGE_WINDOW } else { WINDOW };
        self.decoder.reinit()?;
        self.decoder
            .set_parameter(DParameter::WindowLogMax(most.ilog2()))?;
        self.between = false;
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if self.between && !self.begin()? {
                break;
            }
            let of_header = self.taken < self.header.len();
            let available = if of_header {
                &self.header[self.taken..]
            } else {
                self.source.fill_buf()?
            };
            if available.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
            }
            let mut input = InBuffer::around(available);
            let mut output = OutBuffer::around(&mut *buffer);
            let left = self.decoder.run(&mut input, &mut output)?;
            let (taken, given) = (input.pos(), output.pos());
            if of_header {
                self.taken += taken;
            } else {
                self.source.consume(taken);
            }
            self.between = left == 0;
            if given > 0 {
                return Ok(given);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn frame(content: &[u8], log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// With buffers of so many bytes.
    fn read(blob: &[u8], buffer: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let source = io::BufReader::with_capacity(buffer, blob);
        Frames::new(source)?.read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn windows_are_as_large_as_a_decoder_would_make_them() {
        let zeros = vec![0_u8; 300 << 10];
        assert_eq!(window(&zstd::encode_all(&zeros[..], 3).unwrap()), 2 << 20);
        let single = zstd::bulk::compress(&zeros, 3).unwrap();
        assert_eq!(window(&single), 300 << 10);
        assert_eq!(window(&zstd::bulk::compress(&zeros[..300], 3).unwrap()), 300);
        assert_eq!(window(&[0x1f, 0x8b, 0, 0, 0, 0]), 0);
        assert_eq!(window(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8]), 1 << 31);
    }

    #[test]
    fn frames_of_all_sizes_follow_each_other() {
        let text = b"a layer's archive".repeat(3000);
        // Small ones, an empty one, one that is skipped, and then a large window.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let blob = [
            frame(b"x", 10),
            zstd::bulk::compress(b"", 3).unwrap(),
            skipped.to_vec(),
            frame(&text, 17),
            frame(&text, 25),
            frame(b"y", 10),
        ]
        .concat();
        let expected = [b"x", &text[..], &text, b"y"].concat();
        for buffer in [1, 7, 100, 1 << 16] {
            assert!(read(&blob, buffer).unwrap() == expected, "{buffer}");
        }
        assert_eq!(read(b"", 10).unwrap(), b"");
    }

    #[test]
    fn a_huge_window_is_refused_wherever_it_comes_and_a_cut_frame_has_no_end() {
        let huge = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0].to_vec();
        let later = [frame(b"x", 10), huge.clone()].concat();
        for blob in [huge, later] {
            let error = read(&blob, 100).unwrap_err();
            let refusal = error.get_ref().and_then(|inner| inner.downcast_ref());
            assert!(matches!(refusal, Some(BlobError::Window { .. })), "{error}");
        }
        let whole = frame(b"some text", 10);
        let error = read(&whole[..whole.len() - 2], 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(read(&[whole, b"no frame".to_vec()].concat(), 100).is_err());
    }
}
