//! What writable layers take: counted behind the answers, seldom, and never twice at once.
//!
//! Counting walks a tree that the container makes as large as it likes. So an answer has what was counted
//! last; asking sets off the next count when the last one has rested long enough, and waits a moment for it,
//! which is enough for the small trees that most containers have.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_snapshot::Snapshotter;
use coracle_types::time::UnixNanos;
use tokio::sync::Notify;

use super::meter::{Count, Counted};

/// Threads that count at once; a tree that takes long holds one of them.
const WALKERS: usize = 2;
/// How long an answer waits for counts.
const PATIENCE: Duration = Duration::from_millis(50);

/// Counts to do, and who does them.
#[derive(Debug, Default)]
pub(crate) struct Walks(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    counts: VecDeque<(Count, Arc<Awaited>)>,
    walkers: usize,
}

/// The counts that one answer waits for.
#[derive(Debug)]
struct Awaited {
    left: Mutex<usize>,
    done: Notify,
}

impl Awaited {
    fn one_less(&self) {
        let mut left = lock(&self.left);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.done.notify_one();
        }
    }
}

impl Walks {
    /// Has those counted that are due, and waits a moment for it.
    pub(super) async fn refresh(&self, snapshots: &Arc<dyn Snapshotter>, layers: Vec<Count>) {
        let now = Instant::now();
        let due: Vec<_> = layers
            .into_iter()
            .filter(|count| count.meters.begin_count(&count.id, now))
            .collect();
        if due.is_empty() {
            return;
        }
        let awaited = Arc::new(Awaited {
            left: Mutex::new(due.len()),
            done: Notify::new(),
        });
        {
            let mut queue = lock(&self.0);
            queue
                .counts
                .extend(due.into_iter().map(|count| (count, Arc::clone(&awaited))));
            let wanted = WALKERS.min(queue.counts.len());
            while queue.walkers < wanted {
                queue.walkers += 1;
                let (queue, snapshots) = (Arc::clone(&self.0), Arc::clone(snapshots));
                tokio::task::spawn_blocking(move || walk(&queue, &*snapshots));
            }
        }
        // What takes longer is in a later answer.
        let _ = tokio::time::timeout(PATIENCE, awaited.done.notified()).await;
    }
}

/// Counts until nothing is left to count.
fn walk(queue: &Mutex<Queue>, snapshots: &dyn Snapshotter) {
    loop {
        let (count, awaited) = {
            let mut queue = lock(queue);
            match queue.counts.pop_front() {
                Some(next) => next,
                None => {
                    queue.walkers -= 1;
                    return;
                }
            }
        };
        let began = Instant::now();
        // A layer that cannot be counted is being removed, or was never made.
        let counted = snapshots.writable_usage(&count.id).ok().map(|usage| Counted {
            usage,
            at: UnixNanos::now(),
            when: Instant::now(),
            took: began.elapsed(),
        });
        count.meters.note(&count.id, counted);
        awaited.one_less();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
