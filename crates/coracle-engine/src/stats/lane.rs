//! Readings on blocking threads: one that hangs costs its own value and nothing else.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one reading may take until the others go on without it; they take fractions of a millisecond.
const STALL: Duration = Duration::from_secs(1);

/// Reads many things in one go. What hung is left out of further goes until it has come back.
#[derive(Debug)]
pub(crate) struct Lane<K> {
    hung: Arc<Mutex<HashSet<K>>>,
    stall: Duration,
}

impl<K> Default for Lane<K> {
    fn default() -> Self {
        Self {
            hung: Arc::default(),
            stall: STALL,
        }
    }
}

struct Go<K, T, R> {
    things: Vec<(K, T)>,
    next: AtomicUsize,
    read: Mutex<Vec<Option<R>>>,
}

impl<K: Clone + Eq + Hash + Send + Sync + std::fmt::Debug + 'static> Lane<K> {
    /// Reads `things` in their order, on a thread that may block; `None` for what hangs.
    pub(crate) async fn read<T, R>(&self, things: Vec<(K, T)>, read: fn(&T) -> R) -> Vec<Option<R>>
    where
        T: Send + Sync + 'static,
        R: Send + 'static,
    {
        if things.is_empty() {
            return Vec::new();
        }
        let go = Arc::new(Go {
            read: Mutex::new(things.iter().map(|_| None).collect()),
            things,
            next: AtomicUsize::new(0),
        });
        while self.worker_stalls(&go, read).await {}
        std::mem::take(&mut *lock(&go.read))
    }

    /// Works until all is read, or until one thing hangs.
    async fn worker_stalls<T, R>(&self, go: &Arc<Go<K, T, R>>, read: fn(&T) -> R) -> bool
    where
        T: Send + Sync + 'static,
        R: Send + 'static,
    {
        let at = Arc::new(AtomicUsize::new(usize::MAX));
        let mut worker = tokio::task::spawn_blocking({
            let (go, at, hung) = (Arc::clone(go), Arc::clone(&at), Arc::clone(&self.hung));
            move || work(&go, &at, &hung, read)
        });
        let mut before = None;
        // An error is a panic of the reader or the end of the daemon: what was read until then stays.
        while tokio::time::timeout(self.stall, &mut worker).await.is_err() {
            let now = at.load(Ordering::Relaxed);
            if before == Some(now)
                && let Some((key, _)) = go.things.get(now)
            {
                tracing::warn!(of = ?key, "a reading hangs and is left out until it comes back");
                lock(&self.hung).insert(key.clone());
                return true;
            }
            before = Some(now);
        }
        false
    }
}

fn work<K: Eq + Hash, T, R>(go: &Go<K, T, R>, at: &AtomicUsize, hung: &Mutex<HashSet<K>>, read: fn(&T) -> R) {
    loop {
        let index = go.next.fetch_add(1, Ordering::Relaxed);
        let Some((key, thing)) = go.things.get(index) else {
            return;
        };
        if lock(hung).contains(key) {
            continue;
        }
        at.store(index, Ordering::Relaxed);
        let found = read(thing);
        if let Some(slot) = lock(&go.read).get_mut(index) {
            *slot = Some(found);
        }
        lock(hung).remove(key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Blocks until its sender is gone, where it has one.
    fn read(gate: &Option<Mutex<Receiver<()>>>) -> u32 {
        if let Some(gate) = gate {
            let _ = lock(gate).recv();
        }
        7
    }

    #[tokio::test]
    async fn one_that_hangs_is_left_out_and_comes_back() {
        let lane = Lane {
            stall: Duration::from_millis(20),
            ..Lane::default()
        };
        let (gate, held) = channel();
        let things = vec![(1, None), (2, Some(Mutex::new(held))), (3, None)];
        assert_eq!(lane.read(things, read).await, [Some(7), None, Some(7)]);
        assert_eq!(lane.read(vec![(2, None), (3, None)], read).await, [None, Some(7)]);
        drop(gate);
        while !lock(&lane.hung).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(lane.read(vec![(2, None)], read).await, [Some(7)]);
    }

    #[tokio::test]
    async fn many_slow_ones_are_no_hanging_one() {
        let lane = Lane {
            stall: Duration::from_millis(20),
            ..Lane::default()
        };
        let slow = |pause: &u64| {
            std::thread::sleep(Duration::from_millis(*pause));
            *pause
        };
        let things = (0..20).map(|key| (key, 5)).collect();
        let found = lane.read(things, slow).await;
        assert!(found.iter().all(|value| *value == Some(5)), "{found:?}");
    }
}
