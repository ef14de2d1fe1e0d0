//! Numbers as people read them: at most four characters and a unit.

use std::time::Duration;

/// Bytes in the largest binary unit that leaves a digit before the point: `512B`, `3.4MiB`, `128GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// Bytes a second.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// Cores in use, from billionths: `0.02`, `1.50`, `12.0`.
pub(crate) fn cores(nano_cores: u64) -> String {
    let cores = nano_cores as f64 / 1e9;
    if cores < 9.995 {
        format!("{cores:.2}")
    } else {
        format!("{cores:.1}")
    }
}

/// A share in per cent: `0%`, `0.4%`, `73%`.
pub(crate) fn share(percent: f64) -> String {
    if percent <= 0.0 || percent >= 9.95 {
        format!("{percent:.0}%")
    } else {
        format!("{percent:.1}%")
    }
}

/// A span of time: `850us`, `4.2ms`, `12s`, `3m10s`, `2h05m`.
pub(crate) fn took(span: Duration) -> String {
    let seconds = span.as_secs();
    match span.as_micros() {
        0..1_000 => format!("{}us", span.as_micros()),
        1_000..10_000 => format!("{:.1}ms", span.as_secs_f64() * 1e3),
        10_000..1_000_000 => format!("{}ms", span.as_millis()),
        1_000_000..10_000_000 => format!("{:.1}s", span.as_secs_f64()),
        _ if seconds < 60 => format!("{seconds}s"),
        _ if seconds < 3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0, 1023, 1024, 10_240, 1_048_575].map(bytes),
            ["0B", "1023B", "1.0KiB", "10KiB", "1.0MiB"]
        );
        assert_eq!(bytes(u64::MAX), "16384PiB");
        assert_eq!(
            [0, 20_000_000, 1_500_000_000, 12_000_000_000].map(cores),
            ["0.00", "0.02", "1.50", "12.0"]
        );
        assert_eq!([0.0, 0.4, 9.96, 73.2].map(share), ["0%", "0.4%", "10%", "73%"]);
        let spans = [
            0,
            850,
            4_200,
            45_000,
            9_900_000,
            12_000_000,
            190_000_000,
            7_500_000_000,
        ];
        assert_eq!(
            spans.map(|micros| took(Duration::from_micros(micros))),
            ["0us", "850us", "4.2ms", "45ms", "9.9s", "12s", "3m10s", "2h05m"]
        );
    }
}
