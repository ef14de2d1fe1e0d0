//! Hosts that cannot be reached are left alone for a while, by all pulls together.
//!
//! A dead mirror costs its time-out once, not once a blob and a pull (containerd#4861, #10660). A host
//! is closed (asked as usual), open (passed over while another host can be asked), or half open: its
//! pause is over and one request looks whether it is back, while all others still pass it over. A host
//! that is the only one left is asked in any case.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::RegistryError;

/// Failures in a row that open a host which does answer, though with 5xx or half a body.
const BROKEN_ANSWERS: u32 = 3;
/// The longest pause is so many first ones.
const LONGEST: u32 = 10;
/// A look that did not end in this time was given up by its pull; another may look.
const LOOK: Duration = Duration::from_secs(60);
/// Hosts that are remembered; names come from pods, so somebody may make up many.
const MOST: usize = 256;

/// A host that is being left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPause {
    /// Host and port.
    pub host: String,
    /// Whether a request is looking if it is back.
    pub half_open: bool,
    /// Until when it is left alone, from now.
    pub left: Duration,
    /// Why.
    pub reason: String,
    /// Requests that passed it over so far.
    pub passed_over: u64,
}

#[derive(Debug)]
struct State {
    failures: u32,
    pause: Duration,
    /// `None` while it is asked as usual.
    until: Option<Instant>,
    looking: Option<Instant>,
    touched: Instant,
    reason: String,
    passed_over: u64,
}

/// What is known of hosts that failed; those that did not are not in it.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<HashMap<String, State>>);

impl Breakers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the host may be asked now; the reason when it may not.
    pub(crate) fn admit(&self, host: &str, now: Instant) -> Result<(), String> {
        let mut states = self.lock();
        let Some(state) = states.get_mut(host) else {
            return Ok(());
        };
        let Some(until) = state.until else {
            return Ok(());
        };
        let looked_at = state.looking.is_some_and(|since| now < since + LOOK);
        if now < until || looked_at {
            state.passed_over += 1;
            return Err(format!("{host} is left alone for a while: {}", state.reason));
        }
        state.looking = Some(now);
        Ok(())
    }

    /// It answered: whatever it was, it is back.
    pub(crate) fn succeeded(&self, host: &str) {
        if self
            .lock()
            .remove(host)
            .is_some_and(|state| state.until.is_some())
        {
            tracing::info!(host, "the registry host answers again");
        }
    }

    /// It did not, or not in a usable way. `first` is the first pause.
    pub(crate) fn failed(&self, host: &str, error: &RegistryError, first: Duration, now: Instant) {
        let at_once = match error {
            RegistryError::Unreachable { .. } => true,
            RegistryError::Cut { .. } => false,
            // A host that counts its clients' requests is not dead.
            RegistryError::Busy { status, .. } => {
                if *status == 429 {
                    return;
                }
                false
            }
            _ => return,
        };
        let mut states = self.lock();
        if states.len() >= MOST && !states.contains_key(host) {
            let oldest = states.iter().min_by_key(|(_, state)| state.touched);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                states.remove(&name);
            }
        }
        let state = states.entry(host.to_owned()).or_insert_with(|| State {
            failures: 0,
            pause: first,
            until: None,
            looking: None,
            touched: now,
            reason: String::new(),
            passed_over: 0,
        });
        state.failures = state.failures.saturating_add(1);
        state.touched = now;
        state.reason = error.to_string();
        let looked = state.looking.take().is_some();
        match state.until {
            // Those that were under way when it was opened add nothing.
            Some(until) if now < until => {}
            Some(_) => {
                if looked {
                    state.pause = (state.pause * 2).min(first * LONGEST);
                }
                state.until = Some(now + state.pause);
            }
            None if at_once || state.failures >= BROKEN_ANSWERS => {
                state.until = Some(now + state.pause);
                tracing::warn!(host, %error, pause = ?state.pause, "the registry host is left alone for a while");
            }
            None => {}
        }
    }

    /// The hosts that are being left alone, by name.
    pub(crate) fn paused(&self, now: Instant) -> Vec<HostPause> {
        let states = self.lock();
        let mut paused: Vec<HostPause> = states
            .iter()
            .filter_map(|(host, state)| {
                let until = state.until?;
                Some(HostPause {
                    host: host.clone(),
                    half_open: now >= until,
                    left: until.saturating_duration_since(now),
                    reason: state.reason.clone(),
                    passed_over: state.passed_over,
                })
            })
            .collect();
        paused.sort_by(|a, b| a.host.cmp(&b.host));
        paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(30);

    fn dead() -> RegistryError {
        RegistryError::Unreachable {
            host: "m".to_owned(),
            reason: "connection refused".to_owned(),
        }
    }

    fn broken(status: u16) -> RegistryError {
        RegistryError::Busy {
            host: "m".to_owned(),
            status,
            code: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn a_dead_host_is_passed_over_until_one_look_finds_it_back() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        breakers.failed("m", &dead(), FIRST, start);
        let reason = breakers.admit("m", start).unwrap_err();
        assert!(reason.contains("connection refused"), "{reason}");
        assert_eq!(breakers.admit("other", start), Ok(()));
        let later = start + FIRST;
        assert_eq!(breakers.admit("m", later), Ok(()), "one looks");
        assert!(breakers.admit("m", later).is_err(), "and only one");
        assert_eq!(breakers.paused(later)[0].passed_over, 2);
        assert!(breakers.paused(later)[0].half_open);
        breakers.succeeded("m");
        assert_eq!(breakers.admit("m", later), Ok(()));
        assert!(breakers.paused(later).is_empty());
    }

    #[test]
    fn each_failed_look_doubles_the_pause_up_to_a_bound() {
        let (breakers, mut now) = (Breakers::default(), Instant::now());
        breakers.failed("m", &dead(), FIRST, now);
        for expected in [60, 120, 240, 300, 300] {
            now += Duration::from_secs(400);
            assert_eq!(breakers.admit("m", now), Ok(()));
            breakers.failed("m", &dead(), FIRST, now);
            assert_eq!(breakers.paused(now)[0].left, Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_look_that_never_ends_does_not_keep_others_from_looking() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        breakers.failed("m", &dead(), FIRST, start);
        let later = start + FIRST;
        assert_eq!(breakers.admit("m", later), Ok(()));
        assert!(breakers.admit("m", later + LOOK / 2).is_err());
        assert_eq!(breakers.admit("m", later + LOOK), Ok(()));
    }

    #[test]
    fn one_bad_answer_is_no_death_and_a_counted_client_none_at_all() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for _ in 0..10 {
            breakers.failed("m", &broken(429), FIRST, now);
        }
        for _ in 1..BROKEN_ANSWERS {
            breakers.failed("m", &broken(500), FIRST, now);
            assert_eq!(breakers.admit("m", now), Ok(()));
        }
        breakers.failed("m", &broken(500), FIRST, now);
        assert!(breakers.admit("m", now).is_err());
    }

    #[test]
    fn made_up_names_do_not_fill_the_memory() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for number in 0..MOST as u64 * 2 {
            let at = now + Duration::from_millis(number);
            breakers.failed(&format!("h{number}"), &dead(), FIRST, at);
        }
        assert_eq!(breakers.paused(now).len(), MOST);
    }
}
