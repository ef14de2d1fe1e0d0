//! The state file `<state_dir>/shim.json`: what a successor needs to adopt the pod.
//!
//! Written whole beside itself and renamed; on tmpfs, so it goes with the boot as the processes do.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_types::ContainerId;
use coracle_types::container::Exit;
use coracle_types::format::{Format, Newer};
use coracle_types::time::UnixNanos;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Largest state file that is read.
const SIZE_MAX: u64 = 4 << 20;

/// The format of state files.
const FORMAT: u32 = 1;

/// A pod as its shim knew it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// A newer one is not read.
    #[serde(default)]
    pub format: Format<FORMAT>,
    /// Where the keeper listens that holds the pod's descriptors.
    pub keeper: Option<PathBuf>,
    /// The shim's own process, for whoever must end one that does not answer.
    #[serde(default)]
    pub shim: Option<ProcessRecord>,
    /// The sandbox, once it was made.
    pub sandbox: Option<SandboxRecord>,
    /// Containers that were not deleted.
    pub containers: Vec<ContainerRecord>,
}

/// A process by what does not come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// In the shim's PID namespace.
    pub pid: i32,
    /// Ticks after boot at which it was made (proc_pid_stat(5), field 22).
    pub started: u64,
}

/// The sandbox of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Files on which its namespaces are pinned, in the order they were made.
    pub pins: Vec<PathBuf>,
    /// Directory on which its shared memory is mounted.
    pub shm: Option<PathBuf>,
    /// The pod's init.
    pub init: Option<ProcessRecord>,
    /// Its cgroup.
    pub init_cgroup: Option<String>,
    /// When it was made.
    pub created_at: UnixNanos,
    /// When it was stopped.
    pub stopped_at: Option<UnixNanos>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// Its bundle, with its specification.
    pub bundle: PathBuf,
    /// Its init.
    pub init: ProcessRecord,
    /// Its absolute cgroup.
    pub cgroup: String,
    /// Its CRI log.
    pub log: Option<PathBuf>,
    /// When it was made.
    pub created_at: UnixNanos,
    /// When it was started.
    pub started_at: Option<UnixNanos>,
    /// Frozen.
    pub paused: bool,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Kills for want of memory in the cgroup above its own before it was made, when its own may go with its end.
    #[serde(default)]
    pub kills_above_before: Option<u64>,
    /// Ended execs that left something running: names of their cgroups below the container's. Others that
    /// are found there are of execs whose client went with the shim.
    #[serde(default)]
    pub lingering: Vec<String>,
}

impl Record {
    /// Where it lies in a pod's state directory.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("shim.json")
    }

    /// Reads it; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not what [`Record::save`] writes.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, Error> {
        let path = Self::path(state_dir);
        match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
            Ok(meta) if meta.len() > SIZE_MAX => {
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is too large");
                return Err(Error::file("read", path)(error));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
        Newer::check(&bytes, FORMAT).map_err(|newer| Error::Newer {
            path: path.clone(),
            newer,
        })?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::file("parse", path)(std::io::Error::from(error)))
    }

    /// Puts a file aside that [`Record::load`] cannot make sense of, for people to look at.
    pub(crate) fn put_aside(state_dir: &Path) -> Result<(), Error> {
        let path = Self::path(state_dir);
        fs::rename(&path, path.with_extension("damaged")).map_err(Error::file("put aside", path))
    }

    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), Error> {
        let path = Self::path(state_dir);
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::file("write", &path)(std::io::Error::from(error)))?;
        coracle_store::replace(&path, &bytes).map_err(Error::file("write", &path))
    }
}

impl ProcessRecord {
    /// Of a process that lives or is not reaped yet.
    pub(crate) fn of(pid: i32) -> Self {
        Self {
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    /// Whether that very process has not been reaped.
    pub(crate) fn exists(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Field 22 of proc_pid_stat(5): the name before it may hold anything but ends with the last parenthesis.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Record::load(directory.path()).expect("no file is no error"), None);
        let own = i32::try_from(std::process::id()).expect("a pid");
        let record = Record {
            format: Format,
            keeper: Some("/run/coracle/keeper/0.sock".into()),
            shim: Some(ProcessRecord::of(own)),
            sandbox: None,
            containers: vec![ContainerRecord {
                id: ContainerId::generate(),
                bundle: "/b".into(),
                init: ProcessRecord::of(own),
                cgroup: "/c".into(),
                log: None,
                created_at: UnixNanos(1),
                started_at: None,
                paused: false,
                exit: Some(Exit {
                    code: 137,
                    at: UnixNanos(2),
                    oom_killed: true,
                    lost: false,
                }),
                kills_above_before: Some(3),
                lingering: vec!["exec-0123".into()],
            }],
        };
        record.save(directory.path()).expect("saved");
        assert_eq!(Record::load(directory.path()).expect("loaded"), Some(record));
    }

    #[test]
    fn a_process_is_told_from_another_with_its_pid() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let mut record = ProcessRecord::of(own);
        assert!(record.exists());
        record.started += 1;
        assert!(!record.exists());
    }

    #[test]
    fn a_file_of_a_newer_program_is_refused_in_words() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(Record::path(directory.path()), br#"{"format":2,"containers":7}"#).expect("write");
        let error = Record::load(directory.path()).expect_err("newer");
        assert!(matches!(error, Error::Newer { .. }), "{error}");
        let words = error.to_string();
        assert!(
            words.contains("shim.json") && words.contains("format 2"),
            "{words}"
        );
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(Record::path(directory.path()), b"{").expect("write");
        let error = Record::load(directory.path()).expect_err("damaged").to_string();
        assert!(error.contains("shim.json"), "{error}");
    }
}
