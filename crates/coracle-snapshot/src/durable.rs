//! One syncfs(2) for many: layers published at the same time wait for the same write-out.
//!
//! A layer is thousands of files. fsync(2) of each would be a journal commit each; syncfs writes all of
//! the file system out at once and, since Linux 5.8, reports write errors of it.

use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Default)]
struct Runs {
    /// Number of the last run that was begun.
    begun: u64,
    /// Number of the last run that ended well.
    done: u64,
    running: bool,
}

/// Writes the state's file system out.
#[derive(Default)]
pub(crate) struct Flusher {
    runs: Mutex<Runs>,
    ended: Condvar,
}

impl Flusher {
    /// Returns when all that was written before the call is on the disk.
    pub(crate) fn flush(&self, anything: impl AsFd) -> rustix::io::Result<()> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // A run that has begun may have passed our files already: the next one counts.
        let wanted = runs.begun + 1;
        loop {
            if runs.done >= wanted {
                return Ok(());
            }
            if runs.running {
                runs = self.ended.wait(runs).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            runs.running = true;
            runs.begun += 1;
            let this = runs.begun;
            drop(runs);
            let result = rustix::fs::syncfs(&anything);
            runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.running = false;
            if result.is_ok() {
                runs.done = this;
            }
            self.ended.notify_all();
            result?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_returns() {
        let (flusher, file) = (
            Flusher::default(),
            std::fs::File::open("/dev/shm").expect("tmpfs"),
        );
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| flusher.flush(&file).expect("tmpfs has nothing to write"));
            }
        });
        let runs = flusher.runs.lock().expect("no panic above");
        assert!(runs.done >= 1 && runs.done <= 8);
    }
}
