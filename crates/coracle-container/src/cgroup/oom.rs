//! Hearing of the kernel's kills for want of memory while they happen.
//!
//! The count in `memory.events` goes with the cgroup, and systemd takes a scope's cgroup away as soon as its last
//! process has ended: whoever reads afterwards may read nothing. The file can be waited for, and the wait ends with
//! the kill, which comes before the end of what was killed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::Cgroup;
use super::files::{find_key, read};

/// A cgroup's `memory.events`, open; poll it for priority events (POLLPRI) and read it after each.
#[derive(Debug)]
pub struct OomEvents {
    file: OwnedFd,
}

/// Kills in the cgroup above a cgroup, which has the cgroup's own in its count and stays when that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillsAbove {
    above: PathBuf,
    before: u64,
}

impl Cgroup {
    /// Opens them; `None` where the node has no memory controller of version 2 or the cgroup is gone.
    #[must_use]
    pub fn oom_events(&self) -> Option<OomEvents> {
        let (directory, _) = self.controlled_by("memory").filter(|(_, v2)| *v2)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = open(directory.join("memory.events"), flags, Mode::empty()).ok()?;
        Some(OomEvents { file })
    }

    /// Kills above from now on, or beyond those that were counted `before`; the cgroup itself may be gone. `None`
    /// where the node has no memory controller of version 2.
    #[must_use]
    pub fn kills_above(&self, before: Option<u64>) -> Option<KillsAbove> {
        let (directory, _) = self.controlled_by("memory").filter(|(_, v2)| *v2)?;
        let above = directory.parent()?.to_path_buf();
        let before = before.unwrap_or_else(|| kills_in(&above));
        Some(KillsAbove { above, before })
    }
}

fn kills_in(directory: &Path) -> u64 {
    read(directory, "memory.events")
        .ok()
        .and_then(|text| find_key(&text, "oom_kill"))
        .unwrap_or(0)
}

impl KillsAbove {
    /// How many there had been, to be given to [`Cgroup::kills_above`] by another process.
    #[must_use]
    pub fn before(&self) -> u64 {
        self.before
    }

    /// Whether there were more since: in the cgroup, or in a sibling of it.
    #[must_use]
    pub fn have_grown(&self) -> bool {
        kills_in(&self.above) > self.before
    }
}

impl OomEvents {
    /// Kills so far, here and below.
    ///
    /// # Errors
    /// `ENODEV` when the cgroup is gone.
    pub fn kills(&self) -> io::Result<u64> {
        // More than the file ever has.
        let mut text = [0; 1024];
        let length = rustix::io::pread(&self.file, &mut text, 0)?;
        Ok(find_key(&String::from_utf8_lossy(&text[..length]), "oom_kill").unwrap_or(0))
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl std::os::fd::AsRawFd for OomEvents {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}
