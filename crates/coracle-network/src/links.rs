//! Deletes links of detached pods behind everyone's back: a veth takes the kernel 18 ms, many
//! together hardly more.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{Notify, watch};

use crate::NetlinkError;
use crate::netlink::{Batch, Socket, route};

/// The pod's namespace usually goes right after the detachment and takes the link with it, at
/// no price to us.
const GRACE: Duration = Duration::from_millis(100);

/// How often a link that cannot be deleted is tried again, with a second between.
const ATTEMPTS: u32 = 5;

/// Links that are to be deleted are marked by this group, which is deleted as one.
const GROUP: u32 = 0x0c0a_c1e0;

/// Links that wait for deletion.
#[derive(Debug)]
pub(crate) struct Doomed {
    names: Mutex<BTreeSet<String>>,
    came: Notify,
    waiting: watch::Sender<usize>,
}

impl Doomed {
    pub(crate) fn new() -> Self {
        Self {
            names: Mutex::default(),
            came: Notify::new(),
            waiting: watch::Sender::new(0),
        }
    }

    /// Has the link deleted soon.
    pub(crate) fn push(&self, name: String) {
        let mut names = self.names();
        names.insert(name);
        self.waiting.send_replace(names.len());
        drop(names);
        self.came.notify_one();
    }

    /// Deletes a link that waits now, so that its name is free.
    pub(crate) fn hurry(&self, name: &str) -> Result<(), NetlinkError> {
        if self.names().contains(name) {
            delete(&[name.to_owned()])
        } else {
            Ok(())
        }
    }

    /// Returns when nothing waits.
    pub(crate) async fn settled(&self) {
        // The sender lives as long as `self`.
        let _ = self.waiting.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Deletes what comes, for ever.
    pub(crate) async fn work(&self) {
        loop {
            self.came.notified().await;
            tokio::time::sleep(GRACE).await;
            let batch: Vec<String> = self.names().iter().cloned().collect();
            // What came while the last batch was under way may have gone with it.
            if batch.is_empty() {
                continue;
            }
            for attempt in 1..=ATTEMPTS {
                let names = batch.clone();
                let deleted = tokio::task::spawn_blocking(move || delete(&names)).await;
                match deleted {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) if attempt == ATTEMPTS => {
                        tracing::error!(%error, links = ?batch, "links of detached pods stay");
                    }
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_secs(1)).await,
                    // The runtime is going down.
                    Err(_) => return,
                }
            }
            let mut names = self.names();
            batch.iter().for_each(|name| {
                names.remove(name);
            });
            self.waiting.send_replace(names.len());
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set of names is sound after any panic.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes the links that are there, all at once.
pub(crate) fn delete(names: &[String]) -> Result<(), NetlinkError> {
    let mut socket = Socket::route()?;
    let mut marking = Batch::default();
    names
        .iter()
        .for_each(|name| route::set_group(&mut marking, name, GROUP));
    let gone = |_: usize, error: &NetlinkError| error.is(Errno::NODEV);
    let refused = socket.send(&marking)?;
    if refused.0.len() == names.len() && refused.0.iter().all(|(_, error)| error.is(Errno::NODEV)) {
        return Ok(());
    }
    refused.first_except(gone).map_err(|(_, error)| error)?;
    let mut deletion = Batch::default();
    route::delete_group(&mut deletion, GROUP);
    socket
        .send(&deletion)?
        .first_except(gone)
        .map_err(|(_, error)| error)
}
