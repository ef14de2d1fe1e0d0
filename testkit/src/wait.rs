//! Waiting for something to become true, always with a deadline and a name for what is awaited.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks; short, as most things awaited take single milliseconds.
const PAUSE: Duration = Duration::from_millis(5);

/// Names how many times as long deadlines are on a slow machine: a guest of translated code sets it.
pub const PATIENCE_VARIABLE: &str = "CORACLE_PATIENCE";

/// A deadline that was chosen for an ordinary machine, as long as this one needs.
#[must_use]
pub fn patient(deadline: Duration) -> Duration {
    let times = std::env::var(PATIENCE_VARIABLE).ok();
    deadline * times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Looks until `ready` gives a value; fails after `deadline` (see [`patient`]), naming `what` was awaited.
///
/// # Errors
/// When the deadline has passed, or at once when `ready` fails.
pub fn until<T>(what: &str, deadline: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let (begin, deadline) = (Instant::now(), patient(deadline));
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if begin.elapsed() > deadline {
            bail!("waited {} s in vain for {what}", deadline.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

/// As [`until`], for a look that awaits something itself.
///
/// # Errors
/// When the deadline has passed, or at once when `ready` fails.
pub async fn until_async<T, F>(what: &str, deadline: Duration, mut ready: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let (begin, deadline) = (Instant::now(), patient(deadline));
    loop {
        if let Some(value) = ready().await? {
            return Ok(value);
        }
        if begin.elapsed() > deadline {
            bail!("waited {} s in vain for {what}", deadline.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
