//! Whether a container in a scope of systemd's ran out of memory: its cgroup may be gone before that can be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coracle_container::cgroup::{Cgroup, KillsAbove, OomEvents};
use tokio::io::Interest;
use tokio::task::AbortHandle;

use crate::readable::urgent;

/// Exit code of a process that SIGKILL ended.
const KILLED: i32 = 137;

/// Follows the kills in a container's cgroup from its creation to its end.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// None when the cgroup went before this shim saw it.
    following: Option<Following>,
    above: KillsAbove,
    /// Whether somebody asked for the container's end: then SIGKILL means nothing.
    asked: AtomicBool,
}

#[derive(Debug)]
struct Following {
    events: Arc<OomEvents>,
    seen: Arc<AtomicU64>,
    task: AbortHandle,
}

impl OomWatch {
    /// Begins; needs the runtime's context. `None` for a cgroup that stays until it is removed here, whose count can
    /// be read afterwards.
    ///
    /// `above_before` is what [`OomWatch::above_before`] told a shim before this one: what happened since, while there
    /// was no shim and in a cgroup that is gone, is learnt from it.
    pub(crate) fn begin(cgroup: &Cgroup, above_before: Option<u64>) -> Option<Self> {
        if !cgroup.path().as_str().ends_with(".scope") {
            return None;
        }
        let above = cgroup.kills_above(above_before)?;
        let following = Following::begin(cgroup);
        if following.is_none() && above_before.is_none() {
            return None;
        }
        Some(Self {
            following,
            above,
            asked: AtomicBool::new(false),
        })
    }

    /// Kills in the cgroup above before the container came.
    pub(crate) fn above_before(&self) -> u64 {
        self.above.before()
    }

    /// To be called before the container is killed on request.
    pub(crate) fn end_is_asked(&self) {
        if let Some(following) = &self.following {
            following.kills();
        }
        self.asked.store(true, Ordering::Relaxed);
    }

    /// After its end with `code`: whether the kernel killed in it for want of memory.
    ///
    /// When the count went unread with its cgroup (this process was busy with another container meanwhile, or not there
    /// yet), the pod's count decides, if SIGKILL came from nobody here.
    pub(crate) fn killed(&self, code: i32) -> bool {
        match self.following.as_ref().and_then(Following::kills) {
            Some(kills) => kills > 0,
            None => code == KILLED && !self.asked.load(Ordering::Relaxed) && self.above.have_grown(),
        }
    }
}

impl Following {
    fn begin(cgroup: &Cgroup) -> Option<Self> {
        let events = Arc::new(cgroup.oom_events()?);
        let seen = Arc::new(AtomicU64::new(events.kills().unwrap_or(0)));
        let news = urgent(std::os::fd::AsFd::as_fd(&*events).try_clone_to_owned().ok()?).ok()?;
        let (read, count) = (Arc::clone(&events), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while let Ok(mut ready) = news.ready(Interest::PRIORITY).await {
                ready.clear_ready();
                // Gone: what was seen last is what there was.
                let Ok(kills) = read.kills() else { return };
                count.fetch_max(kills, Ordering::Relaxed);
            }
        });
        Some(Self {
            events,
            seen,
            task: task.abort_handle(),
        })
    }

    /// What is counted now or was seen before the cgroup went; none when it went and nothing was seen.
    fn kills(&self) -> Option<u64> {
        if let Ok(kills) = self.events.kills() {
            self.seen.fetch_max(kills, Ordering::Relaxed);
            return Some(kills);
        }
        Some(self.seen.load(Ordering::Relaxed)).filter(|seen| *seen > 0)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}
