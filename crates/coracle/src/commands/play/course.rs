//! A pod's course: init containers, sidecars, containers, and their end in the right order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_manifest::Container;
use tokio::sync::{oneshot, watch};

use super::life::{Ended, Life};
use super::sandbox::Sandbox;

/// What people and the system ask of all pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// The number of the signal that asked to stop.
    pub(super) signal: Option<u8>,
    /// It was asked twice: without grace.
    pub(super) at_once: bool,
}

/// How a pod ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// All containers ended with 0.
    Succeeded,
    /// One did not.
    Failed {
        /// Which.
        container: String,
        /// How.
        ended: Ended,
    },
    /// Its time was up.
    Deadline(u32),
    /// It was asked to.
    Stopped(u8),
}

/// Runs a pod's containers to their end; `ready` hears when all of them are.
pub(super) async fn run(
    sandbox: &Arc<Sandbox>,
    wishes: &mut watch::Receiver<Wish>,
    ready: oneshot::Sender<()>,
) -> Outcome {
    let mut lives = Vec::new();
    let outcome = tokio::select! {
        outcome = start(sandbox, &mut lives, ready) => outcome,
        signal = asked_to_stop(wishes) => Outcome::Stopped(signal),
        seconds = deadline(sandbox) => Outcome::Deadline(seconds),
    };
    let hurry = stop_all(&lives, sandbox.pod.grace_seconds);
    tokio::pin!(hurry);
    tokio::select! {
        () = &mut hurry => {}
        () = asked_at_once(wishes) => {
            sandbox.output.say("", "stops at once");
            for life in &lives {
                life.stop(0);
            }
            hurry.await;
        }
    }
    outcome
}

async fn start(sandbox: &Arc<Sandbox>, lives: &mut Vec<Life>, ready: oneshot::Sender<()>) -> Outcome {
    let pod = &sandbox.pod;
    for container in &pod.init_containers {
        let life = begin(sandbox, lives, container);
        let ended = if life.is_sidecar {
            life.until(|stage| stage.started).await.ended
        } else {
            Some(life.end().await).filter(|ended| ended.failure.is_some() || ended.code != 0)
        };
        if let Some(ended) = ended {
            return Outcome::Failed {
                container: container.name.clone(),
                ended,
            };
        }
    }
    for container in &pod.containers {
        let life = begin(sandbox, lives, container);
        let failed = life
            .until(|stage| stage.hooked)
            .await
            .ended
            .filter(|ended| ended.failure.is_some());
        if let Some(ended) = failed {
            return Outcome::Failed {
                container: container.name.clone(),
                ended,
            };
        }
    }
    let own: Vec<&Life> = lives.iter().skip(pod.init_containers.len()).collect();
    let all_ready = async {
        let mut goes_on = false;
        for life in lives
            .iter()
            .filter(|life| life.is_sidecar)
            .chain(own.iter().copied())
        {
            let stage = life.until(|stage| stage.ready).await;
            // What has done its work does not keep the rest from being ready.
            goes_on |= !life.is_sidecar && stage.ended.is_none();
        }
        if goes_on {
            let _ = ready.send(());
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all_ready => unreachable!("it pends"),
        outcome = all_ended(&own) => outcome,
    }
}

fn begin<'l>(sandbox: &Arc<Sandbox>, lives: &'l mut Vec<Life>, container: &Container) -> &'l Life {
    lives.push(Life::begin(sandbox, container));
    &lives[lives.len() - 1]
}

async fn all_ended(own: &[&Life]) -> Outcome {
    let mut outcome = Outcome::Succeeded;
    for life in own {
        let ended = life.end().await;
        let failed = ended.failure.is_some() || ended.code != 0;
        if failed && matches!(outcome, Outcome::Succeeded) {
            outcome = Outcome::Failed {
                container: life.name.clone(),
                ended,
            };
        }
    }
    outcome
}

/// Containers together; then, with what is left of the grace period, sidecars, the last first.
async fn stop_all(lives: &[Life], grace: u32) {
    let began = Instant::now();
    for life in lives.iter().filter(|life| !life.is_sidecar) {
        life.stop(grace);
    }
    for life in lives.iter().filter(|life| !life.is_sidecar) {
        life.end().await;
    }
    for life in lives.iter().rev().filter(|life| life.is_sidecar) {
        let took = u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX);
        life.stop(grace.saturating_sub(took).max(grace.min(2)));
        life.end().await;
    }
}

async fn deadline(sandbox: &Sandbox) -> u32 {
    match sandbox.pod.active_deadline_seconds {
        Some(seconds) => {
            tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
            seconds
        }
        None => std::future::pending().await,
    }
}

pub(super) async fn asked_to_stop(wishes: &mut watch::Receiver<Wish>) -> u8 {
    let signal = wishes.wait_for(|wish| wish.signal.is_some()).await.ok();
    match signal.and_then(|wish| wish.signal) {
        Some(signal) => signal,
        None => std::future::pending().await,
    }
}

async fn asked_at_once(wishes: &mut watch::Receiver<Wish>) {
    let asked = wishes.wait_for(|wish| wish.at_once).await.is_ok();
    if !asked {
        std::future::pending::<()>().await;
    }
}
