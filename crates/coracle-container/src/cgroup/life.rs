//! Killing, freezing and removing cgroups.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::files::{exists, read, write};
use super::{Cgroup, ExecCgroup};
use crate::error::Error;

/// How long the processes of a killed cgroup may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Processes here and below, each once.
    ///
    /// # Errors
    /// What reading says; a cgroup that is gone has none.
    pub fn processes(&self) -> Result<Vec<Pid>, Error> {
        let mut found = Vec::new();
        for directory in self.directories() {
            collect(&directory, &mut found)?;
        }
        found.sort_unstable_by_key(|pid: &Pid| pid.as_raw_nonzero());
        found.dedup();
        Ok(found)
    }

    /// Names of the cgroups right below it, in whichever hierarchy, each once.
    #[must_use]
    pub fn names_below(&self) -> Vec<String> {
        let entries = self.directories().into_iter().filter_map(|directory| {
            // One that is gone has none below it.
            std::fs::read_dir(directory).ok()
        });
        let mut names: Vec<_> = entries
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Kills all that is in it and below, with children that are being forked meanwhile.
    ///
    /// # Errors
    /// What writing says.
    pub fn kill(&self) -> Result<(), Error> {
        match self.v2_directory() {
            Some(v2) if kill_directory(&v2)? => {
                // What a v1 freezer holds gets its signal when it thaws.
                if let Some((freezer, false)) = self.controlled_by("freezer") {
                    let _ = write(&freezer, "freezer.state", "THAWED");
                }
                Ok(())
            }
            _ => self.kill_each(),
        }
    }

    /// By hand in every hierarchy: also what has left the v2 cgroup for another one.
    fn kill_each(&self) -> Result<(), Error> {
        let directories = self.directories();
        let freezer = self.controlled_by("freezer").map(|(directory, _)| directory);
        kill_by_hand(&directories, freezer.as_deref())
    }

    /// Stops all that is in it, and returns when it has.
    ///
    /// # Errors
    /// `Unsupported` when neither version offers it; a time-out when a process does not stop.
    pub fn freeze(&self) -> Result<(), Error> {
        self.set_frozen("1", "FROZEN")
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<(), Error> {
        self.set_frozen("0", "THAWED")
    }

    fn set_frozen(&self, v2: &str, v1: &str) -> Result<(), Error> {
        let (directory, file, value, state, want) =
            if let Some((directory, false)) = self.controlled_by("freezer") {
                (directory, "freezer.state", v1, "freezer.state", v1.to_owned())
            } else if let Some(directory) = self
                .v2_directory()
                .filter(|directory| exists(directory, "cgroup.freeze"))
            {
                (
                    directory,
                    "cgroup.freeze",
                    v2,
                    "cgroup.events",
                    format!("frozen {v2}"),
                )
            } else {
                return Err(Error::Cgroup {
                    operation: "freeze: neither cgroup.freeze nor the freezer controller is there".into(),
                    path: self.path().as_str().into(),
                    source: ErrorKind::Unsupported.into(),
                });
            };
        write(&directory, file, value)?;
        wait_until(&directory, || {
            Ok(read(&directory, state)?.lines().any(|line| line.trim() == want))
        })
    }

    /// Kills what is left in it and removes it with those below, in every hierarchy. One that is gone is
    /// no error.
    ///
    /// # Errors
    /// When a process in it does not die within 10 s, or a directory stays busy.
    pub fn remove(&self) -> Result<(), Error> {
        let directories = self.directories();
        remove_all(&directories, || self.kill().and_then(|()| self.kill_each()))
    }
}

impl ExecCgroup {
    /// Kills all that is in it.
    ///
    /// # Errors
    /// What writing says.
    pub fn kill(&self) -> Result<(), Error> {
        if !self.v1 && kill_directory(&self.directory)? {
            return Ok(());
        }
        let freezer = self.v1.then_some(self.directory.as_path());
        kill_by_hand(std::slice::from_ref(&self.directory), freezer)
    }

    /// Whether no process is left in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let mut found = Vec::new();
        collect(&self.directory, &mut found).is_ok() && found.is_empty()
    }

    /// Kills what is left in it and removes it.
    ///
    /// # Errors
    /// As [`Cgroup::remove`].
    pub fn remove(&self) -> Result<(), Error> {
        remove_all(std::slice::from_ref(&self.directory), || self.kill())
    }
}

/// By `cgroup.kill` (Linux 5.14); says whether that was there.
fn kill_directory(directory: &Path) -> Result<bool, Error> {
    match write(directory, "cgroup.kill", "1") {
        Ok(()) => Ok(true),
        Err(Error::Cgroup { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// One signal a process, repeated until nobody is left who could fork; frozen first where that is possible.
fn kill_by_hand(directories: &[PathBuf], freezer: Option<&Path>) -> Result<(), Error> {
    let listed = || -> Result<Vec<Pid>, Error> {
        let mut found = Vec::new();
        for directory in directories {
            collect(directory, &mut found)?;
        }
        Ok(found)
    };
    if listed()?.is_empty() {
        return Ok(());
    }
    if let Some(freezer) = freezer {
        let _ = write(freezer, "freezer.state", "FROZEN");
    }
    let mut result = Ok(());
    for _ in 0..100 {
        let found = match listed() {
            Ok(found) => found,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        if found.is_empty() {
            break;
        }
        for pid in found {
            // One that is gone meanwhile is no error.
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(freezer) = freezer {
            let _ = write(freezer, "freezer.state", "THAWED");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Some(freezer) = freezer {
        let _ = write(freezer, "freezer.state", "THAWED");
    }
    result
}

/// Processes of a directory and of those below it.
fn collect(directory: &Path, found: &mut Vec<Pid>) -> Result<(), Error> {
    let text = match read(directory, "cgroup.procs") {
        Ok(text) => text,
        Err(Error::Cgroup { source, .. }) if gone(&source) => return Ok(()),
        Err(error) => return Err(error),
    };
    // 0 stands for a process of a PID namespace that is not ours.
    found.extend(
        text.lines()
            .filter_map(|line| line.parse().ok().and_then(Pid::from_raw)),
    );
    for child in children(directory) {
        collect(&child, found)?;
    }
    Ok(())
}

fn gone(error: &std::io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::NOENT.raw_os_error())
        || code == Some(Errno::NODEV.raw_os_error())
        || code == Some(Errno::OPNOTSUPP.raw_os_error())
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_all(directories: &[PathBuf], kill: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
    let mut killed = false;
    let began = Instant::now();
    let mut pause = Duration::from_micros(200);
    for directory in directories {
        loop {
            match remove_tree(directory) {
                Ok(()) => break,
                Err((path, errno)) if began.elapsed() > PATIENCE => {
                    return Err(Error::Cgroup {
                        operation: "rmdir".into(),
                        path,
                        source: errno.into(),
                    });
                }
                Err((_, Errno::BUSY)) => {
                    if !killed {
                        kill()?;
                        killed = true;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err((path, errno)) => {
                    return Err(Error::Cgroup {
                        operation: "rmdir".into(),
                        path,
                        source: errno.into(),
                    });
                }
            }
        }
    }
    Ok(())
}

/// A cgroup without processes goes by one rmdir; only one with others below is walked.
fn remove_tree(directory: &Path) -> Result<(), (PathBuf, Errno)> {
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err((directory.into(), errno)),
    }
    for child in children(directory) {
        remove_tree(&child)?;
    }
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err((directory.into(), errno)),
    }
}

fn wait_until(directory: &Path, done: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > PATIENCE {
            return Err(Error::Cgroup {
                operation: "wait for freeze or thaw".into(),
                path: directory.into(),
                source: ErrorKind::TimedOut.into(),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
