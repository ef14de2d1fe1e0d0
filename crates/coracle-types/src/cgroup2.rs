//! Numbers of cgroup version 2 for those of version 1, in which the OCI and CRI interfaces speak.
//!
//! Pure arithmetic, in one place because two parties must agree on it: whoever writes the files of a cgroup, and
//! whoever tells systemd the same limits so that it does not write others there later.

use std::fmt;

/// What a file of a limit takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// So much.
    At(u64),
    /// `max`: no limit.
    None,
}

impl Limit {
    /// A number in which 0 leaves the limit as it is and a negative one lifts it.
    #[must_use]
    pub fn of(number: i64) -> Option<Self> {
        match number {
            0 => None,
            ..0 => Some(Self::None),
            number => Some(Self::At(number.unsigned_abs())),
        }
    }

    /// As a cgroup's file shows it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "max" => Some(Self::None),
            number => number.parse().ok().map(Self::At),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(number) => number.fmt(f),
            Self::None => f.write_str("max"),
        }
    }
}

/// `cpu.weight` 1..10000 for `cpu.shares` 2..262144, with 1024 becoming 100, the kernel's default: a parabola
/// through both ends and the middle in logarithms, as runc (1.3.2) and crun (1.23) convert since 2025.
///
/// The straight line of before made 39 of 1024, so that a pod that asked for one processor had two fifths of the
/// weight of a system service that asked for nothing.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both ranges are small"
)]
pub fn cpu_weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The product is not exact, and 100.0000001 must not become 101.
    ((10_f64.powf(exponent) - 1e-6).ceil() as u64).clamp(1, 10_000)
}

/// `io.weight` 1..10000 for `blkio.weight` 10..1000, on a straight line.
#[must_use]
pub fn io_weight(blkio: u16) -> u64 {
    1 + (u64::from(blkio.clamp(10, 1000)) - 10) * 9999 / 990
}

/// Why a limit on memory and swap together says nothing about swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    /// It is smaller than the one on memory alone.
    #[error("it counts memory and swap together: give at least the memory limit, {0}")]
    BelowMemory(u64),
    /// Without a limit on memory the part that is swap cannot be told.
    #[error("it counts memory and swap together: give a memory limit, too, or -1 for swap without limit")]
    WithoutMemory,
}

/// `memory.swap.max`, which counts swap alone, for a limit on memory and swap together; `None` leaves it as it is.
/// `memory` is the limit that will hold.
///
/// Memory without limit and nothing said of swap lifts that one, too: version 1 could not have it otherwise.
///
/// # Errors
/// When the difference means nothing.
pub fn swap_limit(memory: Option<Limit>, both: Option<i64>) -> Result<Option<Limit>, SwapError> {
    match (both.unwrap_or(0), memory) {
        (0, Some(Limit::None)) | (..0, _) => Ok(Some(Limit::None)),
        (0, _) => Ok(None),
        (_, None | Some(Limit::None)) => Err(SwapError::WithoutMemory),
        (both, Some(Limit::At(memory))) => match both.unsigned_abs().checked_sub(memory) {
            Some(swap) => Ok(Some(Limit::At(swap))),
            None => Err(SwapError::BelowMemory(memory)),
        },
    }
}

/// The numbers of a list such as `0-3,7`, ascending and each once; `None` when it is no list, or names more than
/// [`LIST_MAX`].
#[must_use]
pub fn list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= LIST_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

/// Processors and memory nodes have smaller numbers (the kernel's NR_CPUS is 8192 at most).
pub const LIST_MAX: u32 = 8192;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_and_the_defaults_meet() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        for (blkio, weight) in [(10, 1), (1000, 10_000), (0, 1), (u16::MAX, 10_000)] {
            assert_eq!(io_weight(blkio), weight, "{blkio}");
        }
    }

    #[test]
    fn swap_is_what_the_sum_leaves() {
        let at = |number| Some(Limit::At(number));
        assert_eq!(swap_limit(at(100), Some(100)), Ok(at(0)));
        assert_eq!(swap_limit(at(100), Some(150)), Ok(at(50)));
        assert_eq!(swap_limit(at(100), Some(-1)), Ok(Some(Limit::None)));
        assert_eq!(swap_limit(Some(Limit::None), None), Ok(Some(Limit::None)));
        assert_eq!(swap_limit(None, None), Ok(None));
        assert_eq!(swap_limit(at(100), Some(99)), Err(SwapError::BelowMemory(100)));
        assert_eq!(swap_limit(None, Some(99)), Err(SwapError::WithoutMemory));
        assert_eq!(
            swap_limit(Some(Limit::None), Some(99)),
            Err(SwapError::WithoutMemory)
        );
    }

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(list("0-2,7\n"), Some(vec![0, 1, 2, 7]));
        assert_eq!(list("3,1,1-2"), Some(vec![1, 2, 3]));
        assert_eq!(list(""), Some(vec![]));
        for bad in ["x", "2-1", "1-", "-1", "0-8192", "4294967296"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn weights_keep_the_order_and_the_range(a: u64, b: u64, c: u16, d: u16) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(cpu_weight(low) <= cpu_weight(high));
            prop_assert!((1..=10_000).contains(&cpu_weight(a)));
            prop_assert!(io_weight(c.min(d)) <= io_weight(c.max(d)));
            prop_assert!((1..=10_000).contains(&io_weight(c)));
        }

        #[test]
        fn small_shares_are_told_apart_as_far_as_they_can_be(shares in 2_u64..262_144) {
            // A doubling of shares is never lost in rounding from where weights are whole numbers apart.
            prop_assume!((64..131_072).contains(&shares));
            prop_assert!(cpu_weight(shares * 2) > cpu_weight(shares));
        }

        #[test]
        fn memory_and_swap_sum_up_again(memory in 1_i64.., extra in 0_i64..) {
            if let Some(both) = memory.checked_add(extra) {
                let swap = swap_limit(Limit::of(memory), Some(both)).unwrap();
                prop_assert_eq!(swap, Some(Limit::At(extra.unsigned_abs())));
            }
        }

        #[test]
        fn limits_are_read_as_they_are_written(number in any::<i64>()) {
            if let Some(limit) = Limit::of(number) {
                prop_assert_eq!(Limit::parse(&limit.to_string()), Some(limit));
            }
        }

        #[test]
        fn a_list_survives_being_written(numbers in proptest::collection::btree_set(0_u32..LIST_MAX, 0..50)) {
            let text: Vec<String> = numbers.iter().map(u32::to_string).collect();
            prop_assert_eq!(list(&text.join(",")), Some(numbers.into_iter().collect::<Vec<_>>()));
        }
    }
}
