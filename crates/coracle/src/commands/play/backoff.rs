//! How long to wait before a container starts again: the kubelet's numbers.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran so long begins anew.
const FORGIVEN: Duration = Duration::from_secs(600);

/// The first restart is at once; then 10 s, doubled each time, at most 5 minutes.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// What to wait after a container ran for `ran`.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN {
            self.next = Duration::ZERO;
        }
        let now = self.next;
        self.next = (now * 2).clamp(FIRST, LONGEST);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_and_are_forgiven() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8)
            .map(|_| backoff.after(Duration::from_secs(1)).as_secs())
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(FORGIVEN), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO), FIRST);
    }
}
