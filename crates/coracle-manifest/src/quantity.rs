//! Kubernetes' amounts: `500m`, `64Mi`, `1.5`, `2e3`; exact to a billionth.

use std::fmt;
use std::str::FromStr;

const NANOS: i128 = 1_000_000_000;
/// The largest whole amount; Kubernetes keeps 64 bits.
const MAX: i128 = i64::MAX as i128;
/// Digits that are looked at; more than any amount within bounds needs.
const DIGITS_MAX: usize = 30;

/// An amount of something.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nanos: i128,
}

/// A text that is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedQuantity {
    /// Not a number with one of the suffixes.
    Form,
    /// More than 64 bits hold, or more digits than are looked at.
    Size,
}

impl fmt::Display for MalformedQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => {
                "give a number, alone or with a suffix: n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or an exponent such as e3"
            }
            Self::Size => "the amount is larger or has more digits than 64 bits hold",
        })
    }
}

impl std::error::Error for MalformedQuantity {}

impl Quantity {
    /// So many whole ones.
    #[must_use]
    pub fn whole(count: i64) -> Self {
        Self {
            nanos: i128::from(count) * NANOS,
        }
    }

    /// So many thousandths.
    #[must_use]
    pub fn milli(count: i64) -> Self {
        Self {
            nanos: i128::from(count) * NANOS / 1000,
        }
    }

    /// Whole ones, rounded away from zero.
    #[must_use]
    pub fn value(self) -> i64 {
        self.in_units(NANOS)
    }

    /// Thousandths, rounded away from zero.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        self.in_units(NANOS / 1000)
    }

    /// Nothing at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Less than nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    fn in_units(self, unit: i128) -> i64 {
        let rounded = away_from_zero(self.nanos, unit);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos % NANOS == 0 {
            write!(f, "{}", self.nanos / NANOS)
        } else {
            write!(f, "{}m", self.milli_value())
        }
    }
}

fn away_from_zero(value: i128, unit: i128) -> i128 {
    let more = i128::from(value % unit != 0);
    value / unit + more * value.signum()
}

impl FromStr for Quantity {
    type Err = MalformedQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (mantissa, fraction) = digits(number)?;
        let factor = factor(suffix)?;
        // mantissa / 10^fraction * factor, in billionths, rounded up.
        let top = mantissa
            .checked_mul(factor.times)
            .and_then(|value| value.checked_mul(NANOS))
            .ok_or(MalformedQuantity::Size)?;
        let below = power(10, fraction)
            .and_then(|power| power.checked_mul(factor.by))
            .ok_or(MalformedQuantity::Size)?;
        let nanos = away_from_zero(top, below);
        if nanos > MAX * NANOS {
            return Err(MalformedQuantity::Size);
        }
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
        })
    }
}

/// The digits as one number, and how many of them stand behind the point.
fn digits(number: &str) -> Result<(i128, u32), MalformedQuantity> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(MalformedQuantity::Form);
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let all = format!("{whole}{fraction}");
    if all.len() > DIGITS_MAX {
        return Err(MalformedQuantity::Size);
    }
    let mantissa = if all.is_empty() {
        0
    } else {
        all.parse().map_err(|_| MalformedQuantity::Form)?
    };
    let behind = u32::try_from(fraction.len()).map_err(|_| MalformedQuantity::Size)?;
    Ok((mantissa, behind))
}

struct Factor {
    times: i128,
    by: i128,
}

fn power(base: i128, exponent: u32) -> Option<i128> {
    base.checked_pow(exponent)
}

fn factor(suffix: &str) -> Result<Factor, MalformedQuantity> {
    let times = |times: i128| Ok(Factor { times, by: 1 });
    let by = |by: i128| Ok(Factor { times: 1, by });
    match suffix {
        "n" => by(NANOS),
        "u" => by(1_000_000),
        "m" => by(1000),
        "" => times(1),
        "k" => times(1000),
        "M" => times(1_000_000),
        "G" => times(NANOS),
        "T" => times(1000 * NANOS),
        "P" => times(1_000_000 * NANOS),
        "E" => times(NANOS * NANOS),
        "Ki" => times(1 << 10),
        "Mi" => times(1 << 20),
        "Gi" => times(1 << 30),
        "Ti" => times(1 << 40),
        "Pi" => times(1 << 50),
        "Ei" => times(1 << 60),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Result<Factor, MalformedQuantity> {
    let digits = suffix
        .strip_prefix(['e', 'E'])
        .filter(|digits| digits.len() <= 4)
        .ok_or(MalformedQuantity::Form)?;
    let exponent: i32 = digits.parse().map_err(|_| MalformedQuantity::Form)?;
    let scale = power(10, exponent.unsigned_abs()).ok_or(MalformedQuantity::Size)?;
    Ok(if exponent < 0 {
        Factor { times: 1, by: scale }
    } else {
        Factor { times: scale, by: 1 }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("100u", 1),
            ("1n", 1),
            ("1.5k", 1_500_000),
            ("2e3", 2_000_000),
            ("2E-3", 2),
            ("1E", 1_000_000_000_000_000_000_i64.saturating_mul(1000)),
            ("+3", 3000),
            ("-3m", -3),
            ("0.0001", 1),
        ] {
            assert_eq!(read(text).milli_value(), milli, "{text}");
        }
        assert_eq!(read("64Mi").value(), 64 << 20);
        assert_eq!(read("1.5Gi").value(), 3 << 29);
        assert_eq!(read("1100m").value(), 2, "rounded up");
        assert_eq!(read("128974848").value(), read("123Mi").value());
        assert_eq!(read("129e6").value(), read("129M").value());
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "", "m", "1 ", " 1", "1Kb", "1kI", "1.2.3", "1e", "1e+", "1ee3", "--1", "1mm", "0x10", "e3", ".",
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(MalformedQuantity::Form), "{text:?}");
        }
        for text in ["8Ei", "9223372036854775808", "1e99", &"9".repeat(400)] {
            assert_eq!(text.parse::<Quantity>(), Err(MalformedQuantity::Size), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn no_number_upsets_it(text in "[-+0-9.eEnumkMGTPi]{0,60}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn whole_numbers_come_back(count in 0..i64::MAX) {
            prop_assert_eq!(read(&count.to_string()).value(), count);
        }

        #[test]
        fn thousandths_are_a_thousandth(count in 0..1_000_000_000_i64) {
            let milli = read(&format!("{count}m"));
            prop_assert_eq!(milli.milli_value(), count);
            prop_assert_eq!(milli, Quantity::milli(count));
            prop_assert_eq!(milli.value(), (count + 999) / 1000);
            let point = format!("{}.{:03}", count / 1000, count % 1000);
            prop_assert_eq!(milli, read(&point));
        }

        #[test]
        fn larger_numbers_are_larger(a in 0..1u64 << 40, b in 0..1u64 << 40, suffix in "(|k|Ki|M|m)") {
            let (small, large) = (a.min(b), a.max(b));
            let (small, large) = (format!("{small}{suffix}"), format!("{large}{suffix}"));
            prop_assert!(read(&small) <= read(&large));
        }
    }
}
