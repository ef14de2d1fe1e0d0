//! The end of a container's processes: patience, then force, then the removal of what they leave.

use std::time::Duration;

use coracle_task::{KillScope, Shim};
use coracle_types::container::Exit;
use coracle_types::signal::Signal;
use coracle_types::{ContainerId, Kind, Kinded};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::EngineError;
use crate::record::ContainerRecord;

/// A killed process is gone within milliseconds, unless it hangs in the kernel.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// How long after the loss of a shim the one that took over is asked.
pub(super) const AFTER_LOSS: Duration = Duration::from_millis(50);

/// StopContainer: the stop signal once, then until `until` (which may come nearer), then KILL to all.
pub(super) async fn stop(
    shim: &Shim,
    record: &ContainerRecord,
    mut until: watch::Receiver<Instant>,
    mut ended: watch::Receiver<bool>,
) -> Result<(), EngineError> {
    if *until.borrow() > Instant::now() {
        ignore_gone(shim.kill(&record.id, record.stop_signal, KillScope::Init).await)?;
        loop {
            let deadline = *until.borrow_and_update();
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return Ok(()),
                () = sleep_until(deadline) => break,
                changed = until.changed() => if changed.is_err() { break },
            }
        }
    }
    ignore_gone(shim.kill(&record.id, Signal::KILL, KillScope::All).await)?;
    match timeout(AFTER_KILL, ended.wait_for(|ended| *ended)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(unkillable(&record.id)),
    }
}

/// Ends a container at once and removes its kernel objects; `None` when there was nothing to end.
pub(super) async fn kill_and_delete(shim: &Shim, id: &ContainerId) -> Result<Option<Exit>, EngineError> {
    match shim.kill(id, Signal::KILL, KillScope::All).await {
        Err(error) if error.kind() == Kind::NotFound => {}
        // It has ended already.
        Err(error) if error.kind() == Kind::FailedPrecondition => {}
        other => other.map_err(EngineError::from_cause("kill container"))?,
    }
    let exit = match timeout(AFTER_KILL, shim.wait(id)).await {
        Ok(Ok(exit)) => Some(exit),
        Ok(Err(error)) if error.kind() == Kind::NotFound => return Ok(None),
        Ok(Err(error)) => return Err(EngineError::from_cause("wait for container")(error)),
        Err(_) => return Err(unkillable(id)),
    };
    delete(shim, id).await?;
    Ok(exit)
}

/// Removes the kernel objects of an ended container.
pub(super) async fn delete(shim: &Shim, id: &ContainerId) -> Result<(), EngineError> {
    match shim.delete(id).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        other => other
            .map(|_| ())
            .map_err(EngineError::from_cause("delete container")),
    }
}

fn ignore_gone(outcome: Result<(), coracle_task::Error>) -> Result<(), EngineError> {
    match outcome {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => Ok(()),
        other => other.map_err(EngineError::from_cause("signal container")),
    }
}

fn unkillable(id: &ContainerId) -> EngineError {
    let message = format!(
        "container {id} did not end within {} s of SIGKILL: a process of it hangs in the kernel (see /proc/PID/stack)",
        AFTER_KILL.as_secs()
    );
    EngineError::new(Kind::DeadlineExceeded, "stop container", message)
}
