//! Successes and failures in a row, until there are enough of them to believe it.

use coracle_manifest::Probe;

/// What a probe has found so far.
#[derive(Debug)]
pub(super) struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    streak: u32,
    last: Option<bool>,
}

impl Tally {
    /// Nothing found yet.
    pub(super) fn of(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
            streak: 0,
            last: None,
        }
    }

    /// Counts a result; gives it back when enough of the same stand in a row.
    pub(super) fn count(&mut self, success: bool) -> Option<bool> {
        self.streak = if self.last == Some(success) {
            self.streak + 1
        } else {
            1
        };
        self.last = Some(success);
        let enough = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        (self.streak >= enough).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use coracle_manifest::Action;

    use super::*;

    fn tally(success_threshold: u32, failure_threshold: u32, results: &[bool]) -> Vec<Option<bool>> {
        let probe = Probe {
            action: Action::Sleep { seconds: 0 },
            initial_delay: 0,
            period: 1,
            timeout: 1,
            success_threshold,
            failure_threshold,
            grace_seconds: None,
        };
        let mut tally = Tally::of(&probe);
        results.iter().map(|result| tally.count(*result)).collect()
    }

    #[test]
    fn a_result_counts_when_enough_of_it_stand_in_a_row() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(tally(1, 3, &[true, false, false, false]), [yes, None, None, no]);
        assert_eq!(tally(1, 2, &[false, true, false, false]), [None, yes, None, no]);
        assert_eq!(
            tally(2, 1, &[true, false, true, true, true]),
            [None, no, None, yes, yes]
        );
    }
}
