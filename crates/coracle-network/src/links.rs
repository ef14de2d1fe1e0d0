//! Deletes links of detached pods behind everyone's back: a veth takes the kernel 18 ms, many
//! together hardly more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
///
/// **Invariant:** a name is among those that wait until its link is deleted, and both change under `deleting`:
/// a link that gets the name of a doomed one is never taken for it, and one that is doomed again is not forgotten.
#[derive(Debug)]
pub(crate) struct Doomed {
    links: Arc<Links>,
    came: Notify,
    waiting: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Links {
    names: Mutex<BTreeSet<String>>,
    deleting: Mutex<()>,
}

impl Doomed {
    pub(crate) fn new() -> Self {
        Self {
            links: Arc::default(),
            came: Notify::new(),
            waiting: watch::Sender::new(0),
        }
    }

    /// Has the link deleted soon.
    pub(crate) fn push(&self, name: String) {
        let mut names = lock(&self.links.names);
        names.insert(name);
        self.waiting.send_replace(names.len());
        drop(names);
        self.came.notify_one();
    }

    /// Deletes a link that waits now, so that its name is free. Blocks while others are being deleted.
    pub(crate) fn hurry(&self, name: &str) -> Result<(), NetlinkError> {
        let _one = lock(&self.links.deleting);
        if !lock(&self.links.names).contains(name) {
            return Ok(());
        }
        delete(&[name.to_owned()])?;
        let mut names = lock(&self.links.names);
        names.remove(name);
        self.waiting.send_replace(names.len());
        Ok(())
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
            for attempt in 1..=ATTEMPTS {
                let links = Arc::clone(&self.links);
                let round = move || links.delete_all(attempt == ATTEMPTS);
                match tokio::task::spawn_blocking(round).await {
                    Ok(true) => break,
                    Ok(false) => tokio::time::sleep(Duration::from_secs(1)).await,
                    // The runtime is going down.
                    Err(_) => return,
                }
            }
            let names = lock(&self.links.names);
            self.waiting.send_replace(names.len());
        }
    }
}

impl Links {
    /// Deletes all that wait; whether they need not be tried again. Those that cannot be deleted are given up
    /// at the `last` attempt.
    fn delete_all(&self, last: bool) -> bool {
        let _one = lock(&self.deleting);
        let batch: Vec<String> = lock(&self.names).iter().cloned().collect();
        if batch.is_empty() {
            return true;
        }
        match delete(&batch) {
            Ok(()) => {}
            Err(error) if last => {
                tracing::error!(%error, links = ?batch, "links of detached pods stay");
            }
            Err(_) => return false,
        }
        let mut names = lock(&self.names);
        batch.iter().for_each(|name| {
            names.remove(name);
        });
        true
    }
}

/// A set of names is sound after any panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
