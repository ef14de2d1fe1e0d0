//! Earlier readings of a pod and its containers: processor time becomes a rate between two of them.
//!
//! No timer reads anything: a rate spans the time between two times that somebody asked, at least a second
//! of it as far as there is one, so that clients who ask at different paces do not disturb each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_snapshot::Usage;
use coracle_types::ContainerId;
use coracle_types::time::UnixNanos;

/// Shortest time that a rate is taken over, where an older reading is there.
const WINDOW: Duration = Duration::from_secs(1);
/// Shortest time that a first rate is taken over: what is shorter is mostly the clock's grain.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Sample {
    nanos: u64,
    at: Instant,
}

/// Processor time of one cgroup as it was read last.
#[derive(Debug, Default)]
struct Rate {
    older: Option<Sample>,
    newer: Option<Sample>,
}

impl Rate {
    /// Nanoseconds of processor time a second, when an earlier reading lies far enough back.
    fn take(&mut self, nanos: u64, at: Instant) -> Option<u64> {
        let this = Sample { nanos, at };
        let Some(newer) = self.newer else {
            self.newer = Some(this);
            return None;
        };
        if nanos < newer.nanos {
            // Another cgroup of the same name: it begins anew.
            *self = Self {
                older: None,
                newer: Some(this),
            };
            return None;
        }
        let since = at.saturating_duration_since(newer.at);
        let base = if since >= WINDOW {
            self.older = self.newer.replace(this);
            newer
        } else {
            match self.older {
                Some(older) => older,
                None if since >= SHORTEST => newer,
                None => return None,
            }
        };
        let elapsed = at.saturating_duration_since(base.at).as_nanos();
        let used = u128::from(nanos.saturating_sub(base.nanos));
        let rate = used.saturating_mul(1_000_000_000).checked_div(elapsed)?;
        u64::try_from(rate).ok()
    }
}

/// What a writable layer took when it was last counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) usage: Usage,
    pub(super) at: UnixNanos,
    /// By the clock that is never set.
    pub(super) when: Instant,
    /// How long the count took.
    pub(super) took: Duration,
}

/// Counting a layer may take this share of a processor: one in a hundred.
const REST: u32 = 100;
/// However quick a count is, the next one is no sooner.
const SOONEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Layer {
    counted: Option<Counted>,
    pending: bool,
}

impl Layer {
    fn is_due(&self, now: Instant) -> bool {
        match self.counted {
            _ if self.pending => false,
            None => true,
            Some(last) => {
                now.saturating_duration_since(last.when) >= SOONEST.max(last.took.saturating_mul(REST))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Meter {
    cpu: Rate,
    layer: Layer,
}

/// Earlier readings of one pod; they go with it.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    pod: Rate,
    containers: BTreeMap<ContainerId, Meter>,
}

impl Meters {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets containers that the pod has no more.
    pub(super) fn keep(&self, is_there: impl Fn(&ContainerId) -> bool) {
        self.lock().containers.retain(|id, _| is_there(id));
    }

    /// The processor rate that a new reading gives; `None` is the pod's own cgroup.
    pub(super) fn rate(&self, container: Option<&ContainerId>, nanos: u64, at: Instant) -> Option<u64> {
        let mut all = self.lock();
        match container {
            None => all.pod.take(nanos, at),
            Some(id) => all.containers.entry(id.clone()).or_default().cpu.take(nanos, at),
        }
    }

    pub(super) fn counted(&self, id: &ContainerId) -> Option<Counted> {
        self.lock().containers.get(id)?.layer.counted
    }

    /// Whether the layer is to be counted now; then the caller does it and [`Meters::note`] ends it.
    pub(super) fn begin_count(&self, id: &ContainerId, now: Instant) -> bool {
        let mut all = self.lock();
        let layer = &mut all.containers.entry(id.clone()).or_default().layer;
        let due = layer.is_due(now);
        layer.pending |= due;
        due
    }

    /// Ends a count; `None` leaves what was known.
    pub(super) fn note(&self, id: &ContainerId, counted: Option<Counted>) {
        // A container that went meanwhile stays forgotten.
        if let Some(meter) = self.lock().containers.get_mut(id) {
            meter.layer.pending = false;
            if counted.is_some() {
                meter.layer.counted = counted;
            }
        }
    }
}

/// A writable layer to count, and where the count goes.
#[derive(Debug, Clone)]
pub(super) struct Count {
    pub(super) id: ContainerId,
    pub(super) meters: Arc<Meters>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn clients_of_any_pace_get_rates_over_a_second_or_more() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!(rate.take(0, start), None);
        assert_eq!(rate.take(1, after(start, 5)), None, "too short to tell");
        // Half a processor.
        assert_eq!(rate.take(250_000_000, after(start, 500)), Some(500_000_000));
        assert_eq!(rate.take(1_000_000_000, after(start, 2_000)), Some(500_000_000));
        // Two clients in a row: the second one's rate is not that of the microsecond between them.
        let next = rate.take(1_000_000_500, after(start, 2_001)).unwrap();
        assert!((499_000_000..=501_000_000).contains(&next), "{next}");
        // Idle from then on.
        assert_eq!(rate.take(1_000_000_000, after(start, 12_000)), Some(0));
    }

    #[test]
    fn a_counter_that_begins_anew_gives_no_rate() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        rate.take(5_000, start);
        rate.take(9_000, after(start, 2_000));
        assert_eq!(rate.take(100, after(start, 4_000)), None);
        assert_eq!(rate.take(1_100, after(start, 5_000)), Some(1_000));
    }

    #[test]
    fn a_slow_count_rests_for_long() {
        let (meters, id) = (Meters::default(), ContainerId::generate());
        let start = Instant::now();
        assert!(meters.begin_count(&id, start));
        assert!(!meters.begin_count(&id, start), "one at a time");
        let slow = Counted {
            usage: Usage::default(),
            at: UnixNanos(1),
            when: start,
            took: Duration::from_millis(200),
        };
        meters.note(&id, Some(slow));
        assert!(!meters.begin_count(&id, after(start, 19_999)));
        assert!(meters.begin_count(&id, after(start, 20_000)));
        meters.note(&id, None);
        assert!(
            meters.counted(&id).is_some(),
            "a count that failed leaves the last one"
        );
        meters.keep(|_| false);
        assert!(meters.counted(&id).is_none());
    }
}
