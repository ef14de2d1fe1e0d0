//! The init system, the clock, swap.

use crate::State::{Costs, Unknown};
use crate::{Finding, Subject, Topic};

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    vec![systemd(subject), clock(), swap(subject)]
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::System, name, seen)
}

fn systemd(subject: &Subject) -> Finding {
    let runs = subject.has("/run/systemd/system");
    finding("systemd", if runs { "runs" } else { "does not run" }).unless(
        runs,
        Costs,
        "only the cgroupfs driver works, and nobody starts the daemon again when it ends",
        "have something else keep `coracle serve` running",
    )
}

fn clock() -> Finding {
    const NAME: &str = "clock";
    match coracle_sys::probe::clock_is_kept() {
        Ok(true) => finding(NAME, "kept right"),
        Ok(false) => finding(NAME, "nobody keeps it right").but(
            Costs,
            "certificates of registries seem not valid yet, and times of logs and events are off",
            "run chrony or systemd-timesyncd",
        ),
        Err(errno) => {
            finding(NAME, "not tried").but(Unknown, format!("the kernel does not say: {errno}"), "")
        }
    }
}

fn swap(subject: &Subject) -> Finding {
    let text = subject.text("/proc/swaps").unwrap_or_default();
    let areas = text.lines().skip(1).count();
    let seen = if areas == 0 {
        "none".to_owned()
    } else {
        format!("{areas} in use")
    };
    finding("swap", seen).unless(
        areas == 0,
        Costs,
        "a kubelet without failSwapOn: false does not start",
        "swapoff -a, or say failSwapOn: false and memorySwap in the kubelet's configuration",
    )
}
