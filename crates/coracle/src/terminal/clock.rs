//! What time it is, for ages; a test holds it still.

use coracle_types::time::UnixNanos;

const DAY: i64 = 86_400;

/// Where the time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Clock {
    /// The machine's.
    #[default]
    Running,
    /// Stopped at these nanoseconds since 1970.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests hold the clock still"))]
    Still(i64),
}

impl Clock {
    /// Nanoseconds since 1970.
    pub(crate) fn now(self) -> i64 {
        match self {
            Self::Running => UnixNanos::now().0,
            Self::Still(nanos) => nanos,
        }
    }

    /// How long ago, in one unit; `-` for never.
    pub(crate) fn ago(self, unix_nanos: i64) -> String {
        if unix_nanos <= 0 {
            return "-".to_owned();
        }
        let seconds = (self.now() - unix_nanos).max(0) / 1_000_000_000;
        match seconds {
            0..60 => format!("{seconds}s"),
            60..3_600 => format!("{}m", seconds / 60),
            3_600..DAY => format!("{}h", seconds / 3_600),
            _ => format!("{}d", seconds / DAY),
        }
    }
}

/// An instant as RFC 3339 in UTC, to the millisecond; empty for never.
pub(crate) fn instant(unix_nanos: i64) -> String {
    if unix_nanos <= 0 {
        return String::new();
    }
    let (seconds, millis) = (unix_nanos / 1_000_000_000, unix_nanos / 1_000_000 % 1_000);
    let (days, rest) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The civil date of a day since 1970, by eras of 400 years that begin in March.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_utc() {
        assert_eq!(instant(0), "");
        assert_eq!(instant(1_000_000), "1970-01-01T00:00:00.001Z");
        assert_eq!(instant(951_782_400_000_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(instant(1_767_225_599_999_000_000), "2025-12-31T23:59:59.999Z");
        assert_eq!(instant(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn ages_have_one_unit() {
        let clock = Clock::Still(200_000 * 1_000_000_000);
        let ago = |seconds: i64| clock.ago((200_000 - seconds) * 1_000_000_000);
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, -5].map(ago);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "0s"]);
        assert_eq!(clock.ago(0), "-");
    }
}
