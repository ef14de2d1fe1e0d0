//! Jobs that somebody waits for, by their object's path: one unit may have several after each other, and one job may be
//! several requests' (two stops at once become one).
//!
//! The end of a job may be heard before the answer that names it: answers and signals are read by different tasks. So the
//! ends of a unit's jobs are kept for as long as an answer about the unit is outstanding.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Ends kept a unit. A request makes one job and cancels at most one; more are other people's.
const KEPT: usize = 16;

/// What a job came to; an error when the connection ended first.
pub(crate) type End = oneshot::Receiver<String>;

#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By unit.
    asked: HashMap<String, Asked>,
    /// By path.
    waits: HashMap<String, Vec<oneshot::Sender<String>>>,
    closed: bool,
}

/// Requests about a unit whose answers are outstanding.
#[derive(Debug, Default)]
struct Asked {
    requests: usize,
    /// Path and result of jobs that ended meanwhile, the last ones last.
    ended: VecDeque<(String, String)>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before a job is asked for, and kept until its path is known.
    pub(crate) fn ask(self: &Arc<Self>, unit: &str) -> Asking {
        self.lock().asked.entry(unit.to_owned()).or_default().requests += 1;
        Asking {
            jobs: Arc::clone(self),
            unit: unit.to_owned(),
        }
    }

    /// A job has ended.
    pub(crate) fn ended(&self, path: &str, unit: &str, result: &str) {
        let mut state = self.lock();
        for told in state.waits.remove(path).into_iter().flatten() {
            // Whoever waited may have given up.
            let _ = told.send(result.to_owned());
        }
        if let Some(asked) = state.asked.get_mut(unit) {
            if asked.ended.len() == KEPT {
                asked.ended.pop_front();
            }
            asked.ended.push_back((path.to_owned(), result.to_owned()));
        }
    }

    /// The connection has ended: nothing more is heard, and nobody waits for it.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waits.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// A request whose answer is outstanding.
#[derive(Debug)]
pub(crate) struct Asking {
    jobs: Arc<Jobs>,
    unit: String,
}

impl Asking {
    /// The end of the job that the answer names, which may have come already.
    pub(crate) fn answered(self, path: &str) -> End {
        let (told, end) = oneshot::channel();
        let mut state = self.jobs.lock();
        let asked = state.asked.get(&self.unit);
        let ended = asked.and_then(|asked| asked.ended.iter().rev().find(|(job, _)| job == path));
        if let Some((_, result)) = ended {
            let _ = told.send(result.clone());
        } else if !state.closed {
            // Of jobs that never end nothing else would take away those who gave up.
            state.waits.retain(|_, waiting| {
                waiting.retain(|told| !told.is_closed());
                !waiting.is_empty()
            });
            state.waits.entry(path.to_owned()).or_default().push(told);
        }
        end
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.jobs.lock();
        if let Some(asked) = state.asked.get_mut(&self.unit) {
            asked.requests -= 1;
            if asked.requests == 0 {
                state.asked.remove(&self.unit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_hears_of_its_own_job() {
        let jobs = Arc::new(Jobs::default());
        let mut start = jobs.ask("a.scope").answered("/job/1");
        let stop = jobs.ask("a.scope");
        // The stop replaces the start, and this is heard before its own answer.
        jobs.ended("/job/1", "a.scope", "canceled");
        assert_eq!(start.try_recv().unwrap(), "canceled");
        let mut stop = stop.answered("/job/2");
        assert!(stop.try_recv().is_err());
        jobs.ended("/job/2", "a.scope", "done");
        assert_eq!(stop.try_recv().unwrap(), "done");
    }

    #[test]
    fn requests_that_became_one_job_hear_of_it_all() {
        let jobs = Arc::new(Jobs::default());
        let (first, second) = (jobs.ask("a.scope"), jobs.ask("a.scope"));
        let mut first = first.answered("/job/7");
        jobs.ended("/job/7", "a.scope", "done");
        let mut second = second.answered("/job/7");
        assert_eq!(first.try_recv().unwrap(), "done");
        assert_eq!(second.try_recv().unwrap(), "done");
    }

    #[test]
    fn nothing_is_kept_that_nobody_asked_for() {
        let jobs = Arc::new(Jobs::default());
        let asking = jobs.ask("a.scope");
        for number in 0..1000 {
            jobs.ended(&format!("/job/{number}"), "a.scope", "done");
            jobs.ended(&format!("/job/{number}"), "b.scope", "done");
        }
        assert_eq!(jobs.lock().asked.len(), 1);
        assert_eq!(jobs.lock().asked["a.scope"].ended.len(), KEPT);
        drop(asking);
        assert!(jobs.lock().asked.is_empty());
        drop(jobs.ask("c.scope").answered("/job/a"));
        let _end = jobs.ask("c.scope").answered("/job/b");
        assert_eq!(jobs.lock().waits.len(), 1);
    }

    #[test]
    fn nobody_waits_on_a_connection_that_ended() {
        let jobs = Arc::new(Jobs::default());
        let mut before = jobs.ask("a.scope").answered("/job/1");
        jobs.close();
        let mut after = jobs.ask("a.scope").answered("/job/2");
        for end in [&mut before, &mut after] {
            assert_eq!(end.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        }
    }
}
