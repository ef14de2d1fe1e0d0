//! Version, controllers, rights, and whether daemon and kubelet agree on who makes cgroups.

use coracle_spec::{CgroupVersion, Host};

use crate::State::{Broken, Costs, Unknown};
use crate::{Daemon, Finding, State, Subject, Topic};

const MOUNT: &str = "/sys/fs/cgroup";
/// A controller, its name on version 1, and what its absence does.
const CONTROLLERS: [(&str, &str, State, &str); 6] = [
    ("cpu", "cpu", Broken, "cpu requests and limits are refused"),
    (
        "memory",
        "memory",
        Broken,
        "memory limits are refused, and nothing is evicted in time",
    ),
    (
        "pids",
        "pids",
        Broken,
        "a fork bomb in one pod takes the node down",
    ),
    (
        "cpuset",
        "cpuset",
        Costs,
        "the kubelet's static cpu manager does not work",
    ),
    ("io", "blkio", Costs, "io is neither measured nor limited"),
    (
        "hugetlb",
        "hugetlb",
        Costs,
        "pods that ask for huge pages are refused",
    ),
];

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let version = if subject.has(format!("{MOUNT}/cgroup.controllers")) {
        CgroupVersion::V2
    } else {
        CgroupVersion::V1
    };
    vec![
        form(subject, version),
        controllers(subject, version),
        writable(subject),
        kill(subject, version),
        swap(),
        driver(subject, version),
    ]
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Cgroups, name, seen)
}

fn form(subject: &Subject, version: CgroupVersion) -> Finding {
    const NAME: &str = "version";
    if version == CgroupVersion::V2 {
        return finding(NAME, "2");
    }
    if subject.names(MOUNT).is_empty() {
        return finding(NAME, "none mounted").but(
            Broken,
            "nothing can be limited",
            "mount cgroup2 at /sys/fs/cgroup",
        );
    }
    let hybrid = subject.has(format!("{MOUNT}/unified/cgroup.controllers"));
    let seen = if hybrid {
        "1, with 2 beside it (hybrid)"
    } else {
        "1"
    };
    finding(NAME, seen).but(
        Costs,
        "no memory.high, no pressure of a pod, slower starts; kubelets from 1.35 on refuse it unless told",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn controllers(subject: &Subject, version: CgroupVersion) -> Finding {
    const NAME: &str = "controllers";
    let there: Vec<String> = match version {
        CgroupVersion::V2 => subject
            .text(format!("{MOUNT}/cgroup.controllers"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        CgroupVersion::V1 => subject.names(MOUNT),
    };
    let has = |(two, one, ..): &&(&str, &str, State, &str)| {
        there
            .iter()
            .any(|name| name == two || name.split(',').any(|part| part == *one))
    };
    let present: Vec<_> = CONTROLLERS.iter().filter(has).map(|(name, ..)| *name).collect();
    let lacking: Vec<_> = CONTROLLERS.iter().filter(|one| !has(one)).collect();
    let Some(worst) = lacking.iter().map(|(_, _, state, _)| *state).max() else {
        return finding(NAME, present.join(", "));
    };
    let costs: Vec<_> = lacking
        .iter()
        .map(|(name, _, _, cost)| format!("without {name}, {cost}"))
        .collect();
    let seen = if present.is_empty() {
        "none".to_owned()
    } else {
        present.join(", ")
    };
    finding(NAME, seen).but(
        worst,
        costs.join("; "),
        "see cgroup_disable= and cgroup_enable= on the kernel's command line (cat /proc/cmdline)",
    )
}

fn writable(subject: &Subject) -> Finding {
    const NAME: &str = "may be written";
    if !Subject::is_root() {
        return finding(NAME, "not tried").but(Unknown, "this user is not root", "run this as root");
    }
    let mounts = subject.text("/proc/self/mountinfo").unwrap_or_default();
    let read_only = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .find(|line| {
            line.split(' ')
                .nth(5)
                .is_some_and(|options| options.split(',').any(|one| one == "ro"))
        });
    match read_only.and_then(|line| line.split(' ').nth(4)) {
        None => finding(NAME, "yes"),
        Some(path) => finding(NAME, format!("{path} is mounted read-only")).but(
            Broken,
            "no pod gets a cgroup",
            format!("mount -o remount,rw {path}; in a container, give the container the host's cgroups"),
        ),
    }
}

fn kill(subject: &Subject, version: CgroupVersion) -> Finding {
    const NAME: &str = "cgroup.kill";
    if version == CgroupVersion::V1 {
        return finding(NAME, "version 1 has none").but(
            Costs,
            "the end of a container walks its processes one by one",
            "as for the version",
        );
    }
    let children = subject.names(MOUNT);
    let seen = children
        .iter()
        .any(|name| subject.has(format!("{MOUNT}/{name}/cgroup.kill")));
    finding(NAME, if seen { "there" } else { "not there" }).unless(
        seen,
        Costs,
        "the end of a container walks its processes one by one",
        "run Linux 5.14 or newer",
    )
}

fn swap() -> Finding {
    let limited = Host::probe().swap_limit;
    finding("limit on swap", if limited { "there" } else { "not there" }).unless(
        limited,
        Costs,
        "limits on swap are ignored; without swap this costs nothing",
        "boot with swapaccount=1",
    )
}

/// Daemon and kubelet must say the same, else each moves the other's cgroups about; and systemd must be there
/// where it is to be asked.
fn driver(subject: &Subject, version: CgroupVersion) -> Finding {
    const NAME: &str = "driver";
    let answered = match &subject.daemon {
        Daemon::Answers { cgroup_driver, .. } => cgroup_driver.clone(),
        Daemon::Silent(_) | Daemon::Hangs(_) | Daemon::Refused => None,
    };
    let configured = subject
        .configuration
        .as_ref()
        .map(|one| one.cgroup_driver.clone());
    let kubelets = subject.text(&subject.kubelet_config).and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("cgroupDriver:"))
            .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
    });
    let Some(ours) = answered.or(configured) else {
        let seen = kubelets.map_or("neither daemon nor kubelet says".to_owned(), |kubelets| {
            format!("the kubelet's is {kubelets}")
        });
        return finding(NAME, seen).but(
            Unknown,
            "no daemon answers that could be compared",
            "ask again when it runs",
        );
    };
    if ours == "systemd" {
        let lacking = match version {
            CgroupVersion::V1 => Some("cgroup version 2"),
            CgroupVersion::V2 if !subject.has("/run/systemd/system") => {
                Some("a systemd that booted this node")
            }
            CgroupVersion::V2 => None,
        };
        if let Some(lacking) = lacking {
            return finding(NAME, format!("systemd, without {lacking}")).but(
                Broken,
                "no pod gets a cgroup",
                "say cgroup.driver = \"cgroupfs\" in the configuration",
            );
        }
    }
    match kubelets {
        Some(kubelets) if ours != kubelets => finding(
            NAME,
            format!("{ours} here, {kubelets} in the kubelet's configuration"),
        )
        .but(
            Broken,
            "a kubelet that does not ask the runtime makes pods' cgroups where the daemon does not look",
            format!(
                "say cgroup.driver = \"{kubelets}\" in the daemon's configuration, or change {}",
                subject.kubelet_config.display()
            ),
        ),
        Some(_) => finding(NAME, format!("{ours}, the kubelet's too")),
        None => finding(NAME, format!("{ours}; no kubelet is configured here")),
    }
}
