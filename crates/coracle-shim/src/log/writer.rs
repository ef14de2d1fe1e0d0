//! The writer thread: polls, reads, frames and writes; nothing else, since a fork may copy it at any time.
//!
//! **Invariant:** between its first and its last instruction the thread neither allocates, frees nor takes
//! a lock that anybody else waits for; its buffers and descriptors are in a [`Slot`] that lives for ever.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::ClockId;

use super::frame::{Out, Pending, Stamp};

/// Write what is in the pipes now, then answer.
pub(super) const DRAIN: u32 = 1;
/// The same, then end.
pub(super) const QUIT: u32 = 2;

/// The descriptors of one writer.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) log: OwnedFd,
    /// Standard output and standard error, non-blocking.
    pub(super) sources: [Option<OwnedFd>; 2],
    /// Event counter that wakes the thread.
    pub(super) command: OwnedFd,
    /// Event counter by which it answers.
    pub(super) answer: OwnedFd,
}

#[derive(Debug)]
struct Buffers {
    pending: [Pending; 2],
    out: Out,
}

/// Memory of one writer. The thread holds both locks from beginning to end: `files` for reading, which the
/// shim's thread may do beside it.
#[derive(Debug)]
pub(crate) struct Slot {
    files: RwLock<Option<Files>>,
    buffers: Mutex<Buffers>,
    wanted: AtomicU32,
    lost: AtomicU64,
}

impl Default for Slot {
    fn default() -> Self {
        let pending = [Pending::new(b"stdout"), Pending::new(b"stderr")];
        Self {
            files: RwLock::new(None),
            buffers: Mutex::new(Buffers {
                pending,
                out: Out::default(),
            }),
            wanted: AtomicU32::new(0),
            lost: AtomicU64::new(0),
        }
    }
}

impl Slot {
    /// Before its thread is started.
    pub(super) fn fill(&self, files: Files) {
        self.wanted.store(0, Ordering::SeqCst);
        self.lost.store(0, Ordering::SeqCst);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.pending.iter_mut().for_each(Pending::reset);
        buffers.out.clear();
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Some(files);
    }

    /// After its thread has ended.
    pub(super) fn empty(&self) {
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.with_files(|_| ()).is_none()
    }

    pub(super) fn with_files<T>(&self, use_them: impl FnOnce(&Files) -> T) -> Option<T> {
        self.files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(use_them)
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn command(&self, what: u32) {
        self.wanted.fetch_or(what, Ordering::SeqCst);
        self.with_files(|files| raise(&files.command));
    }
}

fn raise(event: &OwnedFd) {
    // It fails only when the counter is full, and then it is raised already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// The thread's body.
pub(super) fn run(slot: &'static Slot) {
    let files = slot.files.read().unwrap_or_else(PoisonError::into_inner);
    let mut buffers = slot.buffers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = files.as_ref() {
        Copier {
            files,
            buffers: &mut buffers,
            lost: &slot.lost,
            open: [true; 2],
            torn: false,
        }
        .copy_until_told(&slot.wanted);
    }
}

struct Copier<'a> {
    files: &'a Files,
    buffers: &'a mut Buffers,
    lost: &'a AtomicU64,
    open: [bool; 2],
    /// The last write ended within a line.
    torn: bool,
}

impl Copier<'_> {
    fn copy_until_told(&mut self, wanted: &AtomicU32) {
        loop {
            let ready = self.wait();
            for (index, ready) in ready[..2].iter().enumerate() {
                if *ready {
                    self.read_once(index);
                }
            }
            self.write_out();
            if ready[2] {
                let mut count = [0_u8; 8];
                let _ = rustix::io::read(&self.files.command, &mut count);
                let wanted = wanted.swap(0, Ordering::SeqCst);
                if wanted & (DRAIN | QUIT) != 0 {
                    self.drain(wanted & QUIT != 0);
                    raise(&self.files.answer);
                }
                if wanted & QUIT != 0 {
                    return;
                }
            }
        }
    }

    /// Which of standard output, standard error and the command have something.
    fn wait(&self) -> [bool; 3] {
        // A closed source is replaced by the command's descriptor, asked for nothing.
        let poll_for = |index: usize| match &self.files.sources[index] {
            Some(source) if self.open[index] => PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN),
            _ => PollFd::from_borrowed_fd(self.files.command.as_fd(), PollFlags::empty()),
        };
        let mut polled = [
            poll_for(0),
            poll_for(1),
            PollFd::from_borrowed_fd(self.files.command.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => [0, 1, 2].map(|index: usize| {
                let asked = index == 2 || (self.open[index] && self.files.sources[index].is_some());
                asked && !polled[index].revents().is_empty()
            }),
            Err(_) => [false; 3],
        }
    }

    /// Reads once; how many bytes, 0 for nothing now or nothing any more.
    fn read_once(&mut self, index: usize) -> usize {
        let Some(source) = &self.files.sources[index] else {
            return 0;
        };
        let Buffers { pending, out } = &mut *self.buffers;
        let (files, lost, torn) = (self.files, self.lost, &mut self.torn);
        let mut flush = |out: &mut Out| write_all(&files.log, out, lost, torn);
        match rustix::io::read(source, pending[index].room()) {
            Ok(count) if count > 0 => {
                pending[index].take(count, now(), out, &mut flush);
                count
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // The end of a pipe; EIO is a terminal's end.
            Ok(_) | Err(_) => {
                self.open[index] = false;
                pending[index].finish(true, now(), out, &mut flush);
                0
            }
        }
    }

    /// Writes what the pipes hold at this moment: all that an ended process wrote. Who else holds the other
    /// end may go on writing and delays nobody.
    fn drain(&mut self, last: bool) {
        for index in 0..2 {
            let Some(source) = &self.files.sources[index] else {
                continue;
            };
            let mut left = rustix::io::ioctl_fionread(source).unwrap_or(0);
            while self.open[index] && left > 0 {
                let count = self.read_once(index) as u64;
                if count == 0 {
                    break;
                }
                left = left.saturating_sub(count);
            }
            if self.open[index] {
                // One more shows the end of a stream that nobody else holds.
                self.read_once(index);
            }
            if self.open[index] {
                let Buffers { pending, out } = &mut *self.buffers;
                let (files, lost, torn) = (self.files, self.lost, &mut self.torn);
                let mut flush = |out: &mut Out| write_all(&files.log, out, lost, torn);
                pending[index].finish(last, now(), out, &mut flush);
            }
        }
        self.write_out();
    }

    fn write_out(&mut self) {
        write_all(&self.files.log, &mut self.buffers.out, self.lost, &mut self.torn);
    }
}

/// Writes and clears `out`. What the disk does not take is counted and dropped: a container must not stand
/// still because a log cannot grow. A line that was cut is ended before the next one.
fn write_all(log: &OwnedFd, out: &mut Out, lost: &AtomicU64, torn: &mut bool) {
    if out.bytes().is_empty() {
        return;
    }
    if *torn && matches!(rustix::io::write(log, b"\n"), Ok(1)) {
        *torn = false;
    }
    let mut left = out.bytes();
    while !left.is_empty() {
        match rustix::io::write(log, left) {
            Ok(count) if count > 0 => left = &left[count..],
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => {
                lost.fetch_add(left.len() as u64, Ordering::Relaxed);
                *torn = *torn || left.len() < out.bytes().len();
                break;
            }
        }
    }
    out.clear();
}

fn now() -> Stamp {
    let time = rustix::time::clock_gettime(ClockId::Realtime);
    Stamp::new(time.tv_sec, time.tv_nsec)
}
