//! What the daemon needs of rights and numbers.

use rustix::process::{Resource, getrlimit};

use crate::State::{Broken, Costs, Unknown};
use crate::{Finding, Subject, Topic};

/// Bits of the capability masks in /proc/self/status (linux/capability.h).
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
/// A node of 1,000 pods stays below these.
const DESCRIPTORS: u64 = 65_536;
const INSTANCES: u64 = 1_024;
const WATCHES: u64 = 65_536;
const PIDS: u64 = 65_536;

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = rights(subject);
    findings.extend([
        descriptors(),
        number(
            subject,
            "inotify instances",
            "/proc/sys/fs/inotify/max_user_instances",
            INSTANCES,
            "many pods that watch files fail with \"too many open files\"",
            "fs.inotify.max_user_instances",
        ),
        number(
            subject,
            "inotify watches",
            "/proc/sys/fs/inotify/max_user_watches",
            WATCHES,
            "pods that watch trees of files fail with \"no space left on device\"",
            "fs.inotify.max_user_watches",
        ),
        number(
            subject,
            "process numbers",
            "/proc/sys/kernel/pid_max",
            PIDS,
            "a node full of pods runs out of process numbers",
            "kernel.pid_max",
        ),
    ]);
    findings
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Limits, name, seen)
}

fn rights(subject: &Subject) -> Vec<Finding> {
    if !Subject::is_root() {
        let unknown = finding("rights", "this user is not root");
        return vec![unknown.but(
            Unknown,
            "what the daemon may do is not seen from here",
            "run this as root",
        )];
    }
    let status = subject.text("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let word = |bit: u64| {
        if effective & bit != 0 {
            "there"
        } else {
            "not there"
        }
    };
    vec![
        finding("CAP_SYS_ADMIN", word(SYS_ADMIN)).unless(
            effective & SYS_ADMIN != 0,
            Broken,
            "neither namespaces nor mounts can be made",
            "run the daemon as root of the machine, not of a container",
        ),
        finding("CAP_SYS_RESOURCE", word(SYS_RESOURCE)).unless(
            effective & SYS_RESOURCE != 0,
            Costs,
            "containers cannot have a lower oom_score_adj or higher limits than the daemon: critical pods are \
             killed with the others",
            "give it to the daemon: CapabilityBoundingSet in its unit",
        ),
    ]
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    finding("open files", format!("at most {most}")).unless(
        most >= DESCRIPTORS,
        Costs,
        "daemon and keeper run out of descriptors at some hundred pods",
        "LimitNOFILE=1048576 in the daemon's unit; ulimit -Hn in a shell",
    )
}

fn number(subject: &Subject, name: &'static str, path: &str, least: u64, cost: &str, key: &str) -> Finding {
    match subject.number(path) {
        None => finding(name, "cannot be read").but(Unknown, "", ""),
        Some(most) => finding(name, format!("at most {most}")).unless(
            most >= least,
            Costs,
            cost,
            format!(
                "sysctl -w {key}={}, and a file in /etc/sysctl.d",
                least.next_power_of_two()
            ),
        ),
    }
}
