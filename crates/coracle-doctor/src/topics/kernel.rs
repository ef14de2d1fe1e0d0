//! Version, and features by trying them: distributions carry features back and leave some out.

use coracle_sys::probe;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use crate::State::{Broken, Costs, Unknown};
use crate::{Finding, State, Subject, Topic};

/// Older kernels are not tried.
const LEAST: (u32, u32) = (5, 14);
/// The first whose tmpfs takes id mappings.
const MAPPED_TMPFS: (u32, u32) = (6, 3);

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![version()];
    findings.extend(CALLS.iter().map(|call| call.examine()));
    findings.extend([
        mount_calls(),
        overlay(),
        many_layers(),
        pressure(subject),
        user_namespaces(subject),
    ]);
    findings
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Kernel, name, seen)
}

/// Major and minor number of the release.
fn numbers(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn version() -> Finding {
    let release = release();
    let (major, minor) = LEAST;
    finding("version", format!("Linux {release}")).unless(
        numbers(&release) >= LEAST,
        Costs,
        format!("nobody tries kernels before {major}.{minor}"),
        format!("install a kernel from {major}.{minor} on"),
    )
}

/// A system call or a flag of one.
struct Call {
    name: &'static str,
    known: fn() -> bool,
    since: &'static str,
    without: State,
    cost: &'static str,
}

const CALLS: [Call; 6] = [
    Call {
        name: "clone3 into a cgroup",
        known: probe::clone_into_cgroup,
        since: "5.7",
        without: Costs,
        cost: "on cgroup v2 each start waits some milliseconds for a migration",
    },
    Call {
        name: "pidfd",
        known: probe::pidfd,
        since: "5.3",
        without: Broken,
        cost: "processes cannot be told from others that got their number",
    },
    Call {
        name: "pidfd exit code",
        known: probe::pidfd_exit_code,
        since: "6.15",
        without: Costs,
        cost: "when shim and keeper are killed together, exit codes of that moment are lost",
    },
    Call {
        name: "openat2",
        known: opens_in_root,
        since: "5.6",
        without: Broken,
        cost: "paths of images cannot be kept inside their root",
    },
    Call {
        name: "id-mapped mounts",
        known: probe::idmapped_mounts,
        since: "5.12",
        without: Costs,
        cost: "pods with a user namespace of their own (hostUsers: false) are refused",
    },
    Call {
        name: "seccomp notify",
        known: probe::seccomp_notify,
        since: "5.0",
        without: Costs,
        cost: "seccomp profiles that ask an agent are refused",
    },
];

impl Call {
    fn examine(&self) -> Finding {
        if (self.known)() {
            return finding(self.name, "there");
        }
        let remedy = format!("run Linux {} or newer", self.since);
        finding(self.name, "not there").but(self.without, self.cost, remedy)
    }
}

fn opens_in_root() -> bool {
    let (flags, within) = (OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT);
    rustix::fs::openat2(CWD, ".", flags, Mode::empty(), within).is_ok()
}

/// A context of a file system that is never mounted.
fn context(kind: &str) -> Result<std::os::fd::OwnedFd, Errno> {
    fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
}

/// The question needs rights that this user has not.
fn not_allowed(name: &'static str) -> Finding {
    finding(name, "not tried").but(Unknown, "this user may not mount", "run this as root")
}

fn mount_calls() -> Finding {
    const NAME: &str = "mounts by descriptor";
    match context("tmpfs") {
        Ok(_) => finding(NAME, "there"),
        Err(Errno::PERM) => not_allowed(NAME),
        Err(errno) => finding(NAME, format!("fsopen: {errno}")).but(
            Broken,
            "a container's root cannot be made out of the host's sight",
            "run Linux 5.2 or newer, and let no filter take fsopen and move_mount away",
        ),
    }
}

fn overlay() -> Finding {
    const NAME: &str = "overlay";
    match context("overlay") {
        Ok(_) => finding(NAME, "there"),
        Err(Errno::PERM) => not_allowed(NAME),
        Err(errno) => finding(NAME, errno.to_string()).but(
            Broken,
            "layers of images cannot be put upon each other",
            "modprobe overlay, and name it in /etc/modules-load.d",
        ),
    }
}

fn many_layers() -> Finding {
    const NAME: &str = "overlay lowerdir+";
    let context = match context("overlay") {
        Ok(context) => context,
        Err(Errno::PERM) => return not_allowed(NAME),
        Err(_) => return finding(NAME, "no overlay").but(Unknown, "", "see overlay"),
    };
    // Before Linux 6.5 overlay looks at its options when it is mounted: until then it takes any name.
    let taken = fsconfig_set_string(&context, "lowerdir+", "/").is_ok();
    let looked_at = fsconfig_set_string(&context, "no-such-option", "/").is_err();
    if taken && looked_at {
        finding(NAME, "there")
    } else {
        finding(NAME, "not there").but(
            Costs,
            "layers are named in one page: an image may have some 128 of them, and the mount is slower",
            "run Linux 6.8 or newer",
        )
    }
}

fn pressure(subject: &Subject) -> Finding {
    let there = subject.text("/proc/pressure/cpu").is_some();
    finding("pressure (PSI)", if there { "measured" } else { "not measured" }).unless(
        there,
        Costs,
        "`coracle top` and the kubelet do not see who waits for cpu, memory and io",
        "boot with psi=1",
    )
}

fn user_namespaces(subject: &Subject) -> Finding {
    const NAME: &str = "user namespaces";
    let cost = "pods with a user namespace of their own (hostUsers: false) are refused";
    match subject.number("/proc/sys/user/max_user_namespaces") {
        Some(0) => finding(NAME, "switched off").but(Costs, cost, "sysctl user.max_user_namespaces=15000"),
        Some(most) => finding(NAME, format!("at most {most}")).unless(
            numbers(&release()) >= MAPPED_TMPFS,
            Costs,
            "the kubelet is told that there are none: ids of tokens and secrets cannot be mapped",
            "install a kernel from 6.3 on",
        ),
        None => finding(NAME, "not there").but(Costs, cost, "run a kernel with CONFIG_USER_NS"),
    }
}
