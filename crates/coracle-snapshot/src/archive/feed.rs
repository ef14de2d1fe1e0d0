//! Carries a stream to the extractor in buffers while one thread reads ahead and another one hashes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use coracle_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::extract::ExtractError;

const BUFFER: usize = 256 << 10;
/// Enough that reader, hasher and extractor seldom wait for each other; with [`BUFFER`], 1.5 MiB a layer.
const BUFFERS: usize = 6;

type Buffer = Vec<u8>;

/// The extractor's end: bytes in order, without a copy.
pub(crate) struct Feed {
    full: Receiver<Result<Buffer, ExtractError>>,
    empty: SyncSender<Buffer>,
    buffer: Buffer,
    at: usize,
    ended: bool,
}

impl Feed {
    /// At least one and at most `most` bytes; none at the stream's end.
    pub(crate) fn take(&mut self, most: usize) -> Result<&[u8], ExtractError> {
        if self.at == self.buffer.len() && !self.ended {
            self.refill()?;
        }
        let from = self.at;
        self.at += most.min(self.buffer.len() - from);
        Ok(&self.buffer[from..self.at])
    }

    fn refill(&mut self) -> Result<(), ExtractError> {
        let used = std::mem::take(&mut self.buffer);
        self.at = 0;
        // The reader is gone only when the stream has ended: then nobody wants the buffer.
        let _ = self.empty.send(used);
        match self.full.recv() {
            Ok(next) => self.buffer = next?,
            Err(_) => self.ended = true,
        }
        Ok(())
    }
}

/// Runs `consume` on the bytes of `stream`. When it succeeds, gives its result and the digest of the
/// whole stream; it must have taken all of it.
pub(crate) fn with_feed<T>(
    mut stream: impl Read + Send,
    limit: u64,
    consume: impl FnOnce(Feed) -> Result<T, ExtractError>,
) -> Result<(T, Digest), ExtractError> {
    thread::scope(|scope| {
        let (full, filled) = sync_channel(BUFFERS);
        let (hashed, ready) = sync_channel(BUFFERS);
        // One more than circulate: giving one back never blocks.
        let (give_back, empty) = sync_channel(BUFFERS + 1);
        for _ in 1..BUFFERS {
            // Cannot fail: `empty` lives.
            let _ = give_back.send(Vec::new());
        }
        let reader = thread::Builder::new()
            .name("layer-reader".into())
            .spawn_scoped(scope, move || read_ahead(&mut stream, limit, &full, &empty))
            .map_err(ExtractError::Read)?;
        let hasher = thread::Builder::new()
            .name("layer-digest".into())
            .spawn_scoped(scope, move || hash(&filled, &hashed))
            .map_err(ExtractError::Read)?;
        let feed = Feed {
            full: ready,
            empty: give_back,
            buffer: Vec::new(),
            at: 0,
            ended: false,
        };
        let result = consume(feed);
        // Joined in any case: the scope would pass a panic on.
        let panicked = |_| ExtractError::Read(io::Error::other("the stream's reader panicked"));
        let (read, digest) = (reader.join(), hasher.join());
        read.map_err(panicked)?;
        let digest = digest.map_err(panicked)?;
        Ok((result?, digest))
    })
}

fn read_ahead(
    stream: &mut impl Read,
    limit: u64,
    full: &SyncSender<Result<Buffer, ExtractError>>,
    empty: &Receiver<Buffer>,
) {
    let mut total = 0_u64;
    while let Ok(mut buffer) = empty.recv() {
        buffer.resize(BUFFER, 0);
        let read = fill(stream, &mut buffer);
        let sent = match read {
            Ok(0) => break,
            Ok(length) => {
                buffer.truncate(length);
                total += length as u64;
                if total > limit {
                    Err(ExtractError::limit(b"", "bytes in the archive", limit))
                } else {
                    Ok(buffer)
                }
            }
            Err(source) => Err(ExtractError::Read(source)),
        };
        let failed = sent.is_err();
        if full.send(sent).is_err() || failed {
            break;
        }
    }
}

/// Passes everything on; gives the digest of all.
fn hash(
    filled: &Receiver<Result<Buffer, ExtractError>>,
    hashed: &SyncSender<Result<Buffer, ExtractError>>,
) -> Digest {
    let mut hasher = Sha256::new();
    for next in filled {
        if let Ok(buffer) = &next {
            hasher.update(buffer);
        }
        if hashed.send(next).is_err() {
            break;
        }
    }
    Digest::from_sha256(&hasher.finalize().into())
}

/// Fills the buffer as far as the stream goes.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
