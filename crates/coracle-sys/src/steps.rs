//! Steps at which this process can be told to die, so that tests see what a kill at that moment leaves.
//!
//! A step is entered after all that comes before it in its operation and before what it names. It costs
//! one atomic read while nothing was asked, which is always so outside tests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

struct Plan {
    name: String,
    left: AtomicU32,
    tell: fn(&'static str),
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// From now on `tell` hears of every step, and this process kills itself with SIGKILL at the one that
/// `at` names: `layer.publish`, or `layer.publish:3` for its third time. Only the first call counts.
pub fn die_at(at: &str, tell: fn(&'static str)) {
    let (name, times) = at.split_once(':').unwrap_or((at, "1"));
    let _ = PLAN.set(Plan {
        name: name.to_owned(),
        left: AtomicU32::new(times.parse().unwrap_or(1)),
        tell,
    });
}

/// This process is about to do what `name` says.
pub fn entering(name: &'static str) {
    let Some(plan) = PLAN.get() else { return };
    (plan.tell)(name);
    if plan.name == name && plan.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Cannot fail for the process itself; and a test that waits for its death tells.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// What the next test runs in a process of its own; by itself it does nothing.
    #[test]
    fn dies_when_told() {
        let Ok(at) = std::env::var("CORACLE_TEST_DIE_AT") else {
            return;
        };
        die_at(&at, |_| {});
        for _ in 0..2 {
            entering("layer.first");
            entering("layer.second");
        }
    }

    #[test]
    fn a_process_dies_at_the_step_and_the_time_it_was_told() {
        for (at, dies) in [
            ("layer.second", true),
            ("layer.first:2", true),
            ("layer.first:3", false),
            ("layer.third", false),
        ] {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "steps::tests::dies_when_told"])
                .env("CORACLE_TEST_DIE_AT", at)
                .output()
                .unwrap()
                .status;
            assert_eq!(status.signal() == Some(9), dies, "{at}: {status}");
        }
    }
}
