//! A blob's bytes, read and hashed on a thread of their own while what came before is decompressed.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use coracle_types::Digest;
use sha2::{Digest as _, Sha256};

const BUFFER: usize = 256 << 10;
/// With [`BUFFER`], 1 MiB a layer.
const BUFFERS: usize = 4;

enum Next {
    Bytes(Vec<u8>),
    End(io::Result<(Digest, u64)>),
}

/// The reading end.
pub(crate) struct Ahead {
    next: Receiver<Next>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    end: Option<(Digest, u64)>,
}

impl Ahead {
    /// Reads `source` to its end, or a little beyond `limit` bytes: what comes then is not what was
    /// announced. When this is dropped the thread ends with its next read.
    pub(crate) fn start<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        source: impl BufRead + Send + 'scope,
        limit: u64,
    ) -> io::Result<Self> {
        let (full, next) = sync_channel(BUFFERS);
        // One more than circulate: giving one back never blocks.
        let (empty, given_back) = sync_channel(BUFFERS + 1);
        for _ in 1..BUFFERS {
            // Cannot fail: `given_back` lives.
            let _ = empty.send(Vec::new());
        }
        thread::Builder::new()
            .name("blob-digest".into())
            .spawn_scoped(scope, move || read_ahead(source, limit, &full, &given_back))?;
        Ok(Self {
            next,
            empty,
            buffer: Vec::new(),
            at: 0,
            end: None,
        })
    }

    /// Reads the rest and tells the whole's digest and length.
    pub(crate) fn finish(&mut self) -> io::Result<(Digest, u64)> {
        loop {
            self.at = self.buffer.len();
            self.fill_buf()?;
            if let Some(end) = &self.end {
                return Ok(end.clone());
            }
        }
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && self.end.is_none() {
            let used = std::mem::take(&mut self.buffer);
            self.at = 0;
            // The thread is gone only when the blob has ended: then nobody wants the buffer.
            let _ = self.empty.send(used);
            match self.next.recv() {
                Ok(Next::Bytes(buffer)) => self.buffer = buffer,
                Ok(Next::End(end)) => self.end = Some(end?),
                Err(_) => return Err(io::Error::other("the blob's reader ended early")),
            }
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.buffer.len());
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn read_ahead(mut source: impl BufRead, limit: u64, full: &SyncSender<Next>, empty: &Receiver<Vec<u8>>) {
    let (mut hasher, mut length) = (Sha256::new(), 0_u64);
    while let Ok(mut buffer) = empty.recv() {
        let next = match fill(&mut source, &mut buffer) {
            Ok(()) if !buffer.is_empty() && length <= limit => {
                hasher.update(&buffer);
                length += buffer.len() as u64;
                Next::Bytes(buffer)
            }
            Ok(()) => {
                let digest = Digest::from_sha256(&hasher.clone().finalize().into());
                Next::End(Ok((digest, length)))
            }
            Err(error) => Next::End(Err(error)),
        };
        let ended = matches!(next, Next::End(_));
        if full.send(next).is_err() || ended {
            break;
        }
    }
}

/// Fills the buffer as far as the source goes.
fn fill(source: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    while buffer.len() < BUFFER {
        let available = match source.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        if available.is_empty() {
            break;
        }
        let count = available.len().min(BUFFER - buffer.len());
        buffer.extend_from_slice(&available[..count]);
        source.consume(count);
    }
    Ok(())
}
