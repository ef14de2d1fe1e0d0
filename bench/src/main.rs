//! How fast this machine can decode layers at all: inflate them and compute both digests, nothing else.
//!
//! `decode_limit PARALLEL FILE...` reads gzip blobs into memory, decodes `PARALLEL` of them at a time with
//! the crates that pulls use, and prints one line of JSON. Each has three threads: digest of the blob,
//! inflation, digest of the archive. That is all that a pull cannot leave out, and what `cargo xtask bench
//! --part=pull` holds pulls against.
#![allow(clippy::print_stdout, reason = "its answer is what it prints")]

use std::error::Error;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let parallel: usize = arguments.next().ok_or("how many at a time?")?.parse()?;
    let blobs: Vec<Vec<u8>> = arguments.map(std::fs::read).collect::<Result<_, _>>()?;
    let (next, unpacked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..parallel.min(blobs.len()) {
            scope.spawn(|| {
                while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    unpacked.fetch_add(decode(blob), Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let packed: usize = blobs.iter().map(Vec::len).sum();
    let unpacked = unpacked.into_inner();
    println!(r#"{{"seconds":{seconds},"packed":{packed},"unpacked":{unpacked}}}"#);
    Ok(())
}

/// Gives the length of the archive.
fn decode(blob: &[u8]) -> usize {
    let (full, filled) = sync_channel::<Vec<u8>>(BUFFERS);
    let (give_back, empty) = sync_channel::<Vec<u8>>(BUFFERS + 1);
    std::thread::scope(|scope| {
        scope.spawn(|| std::hint::black_box(Sha256::digest(blob)));
        scope.spawn(move || {
            let mut hasher = Sha256::new();
            for buffer in filled {
                hasher.update(&buffer);
                // Refused only once the inflation has ended.
                let _ = give_back.send(buffer);
            }
            std::hint::black_box(hasher.finalize());
        });
        let mut archive = MultiGzDecoder::new(blob);
        let mut length = 0;
        loop {
            let mut buffer = empty.try_recv().unwrap_or_default();
            buffer.clear();
            let read = (&mut archive).take(BUFFER as u64).read_to_end(&mut buffer);
            match read.expect("the bench made whole blobs") {
                0 => break,
                count => length += count,
            }
            full.send(buffer).expect("the digest takes all");
        }
        drop(full);
        length
    })
}
