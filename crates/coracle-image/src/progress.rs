//! How far a pull is, layer by layer, at the price of a few atomic counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_types::Digest;

use crate::origin::Origin;

/// What is being done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerPhase {
    /// Its turn has not come.
    Waiting,
    /// It comes, and is verified and unpacked as it comes.
    Downloading,
    /// It is on the node, durably.
    Done,
    /// It was there before.
    Present,
}

const PHASES: [LayerPhase; 4] = [
    LayerPhase::Waiting,
    LayerPhase::Downloading,
    LayerPhase::Done,
    LayerPhase::Present,
];

/// A layer of a pull under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The layer's blob.
    pub digest: Digest,
    /// What is being done.
    pub phase: LayerPhase,
    /// Compressed bytes that have come.
    pub done: u64,
    /// Compressed bytes in all.
    pub total: u64,
    /// Hosts that gave it, once it is here; more than one when it was picked up again elsewhere.
    pub hosts: Vec<String>,
}

/// Is told how a pull goes: each layer once at first, then whenever something changed, at most ten
/// times a second.
pub trait Progress: Send + Sync {
    /// A layer has moved.
    fn layer(&self, layer: &LayerProgress);
}

/// Looks away.
impl Progress for () {
    fn layer(&self, _: &LayerProgress) {}
}

/// The counters of one layer, written by the pull.
#[derive(Debug)]
pub(crate) struct LayerState {
    digest: Digest,
    total: u64,
    done: Arc<AtomicU64>,
    phase: AtomicU8,
    hosts: Mutex<BTreeSet<String>>,
}

impl LayerState {
    pub(crate) fn new(digest: Digest, total: u64) -> Self {
        Self {
            digest,
            total,
            done: Arc::default(),
            phase: AtomicU8::new(0),
            hosts: Mutex::default(),
        }
    }

    pub(crate) fn enter(&self, phase: LayerPhase) {
        if phase == LayerPhase::Done {
            self.done.store(self.total, Ordering::Relaxed);
        }
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Sets what has gone, for a body that outlives the borrow.
    pub(crate) fn counter(&self) -> impl Fn(u64) + Send + Clone + use<> {
        let done = Arc::clone(&self.done);
        move |bytes| done.store(bytes, Ordering::Relaxed)
    }

    pub(crate) fn set_done(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn came_from(&self, hosts: &BTreeSet<String>) {
        self.hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(hosts.iter().cloned());
    }

    fn hosts(&self) -> Vec<String> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().cloned().collect()
    }

    fn snapshot(&self) -> LayerProgress {
        LayerProgress {
            digest: self.digest.clone(),
            phase: PHASES[usize::from(self.phase.load(Ordering::Relaxed)) % PHASES.len()],
            done: self.done.load(Ordering::Relaxed),
            total: self.total,
            hosts: self.hosts(),
        }
    }
}

/// All layers of one pull; filled once the manifest is known.
#[derive(Debug, Default)]
pub(crate) struct PullState(Mutex<Vec<Arc<LayerState>>>);

impl PullState {
    pub(crate) fn set_layers(&self, layers: Vec<Arc<LayerState>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = layers;
    }

    /// Where the layers that were downloaded came from.
    pub(crate) fn origins(&self) -> BTreeMap<Digest, Origin> {
        let layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = layers.iter().map(|layer| (layer.digest.clone(), layer.hosts()));
        hosts
            .filter(|(_, hosts)| !hosts.is_empty())
            .map(|(digest, hosts)| (digest, Origin::hosts(hosts)))
            .collect()
    }

    /// Tells `progress` what differs from `seen`, which becomes what is so now.
    pub(crate) fn report(&self, progress: &dyn Progress, seen: &mut Vec<LayerProgress>) {
        let layers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (index, layer) in layers.iter().enumerate() {
            let now = layer.snapshot();
            match seen.get_mut(index) {
                Some(before) if *before == now => {}
                Some(before) => {
                    progress.layer(&now);
                    *before = now;
                }
                None => {
                    progress.layer(&now);
                    seen.push(now);
                }
            }
        }
    }
}
