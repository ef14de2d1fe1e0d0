//! The pod as its shim holds it: sandbox, containers, account with the keeper, state file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_types::{ContainerId, PodSandboxId};
use tokio::sync::watch;

use crate::container::Container;
use crate::deposits::Deposits;
use crate::error::Error;
use crate::log::Pool;
use crate::record::Record;
use crate::sandbox::Sandbox;

/// The shim's only state. One thread uses it; the mutex is for the service traits, which ask for `Sync`, and
/// is never held over an await.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodSandboxId,
    pub(crate) state_dir: PathBuf,
    state: Mutex<State>,
    leaving: watch::Sender<bool>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    pub(crate) deposits: Deposits,
    pub(crate) pool: Pool,
}

impl Pod {
    pub(crate) fn new(id: PodSandboxId, state_dir: PathBuf, deposits: Deposits) -> Self {
        let state = State {
            sandbox: None,
            containers: BTreeMap::new(),
            deposits,
            pool: Pool::default(),
        };
        Self {
            id,
            state_dir,
            state: Mutex::new(state),
            leaving: watch::Sender::new(false),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the state file. A failure is said and survived: the pod runs on, a successor would know less.
    pub(crate) fn save(&self, state: &State) {
        let record = Record {
            keeper: state.deposits.socket(),
            sandbox: state.sandbox.as_ref().map(Sandbox::record),
            containers: state.containers.values().map(Container::record).collect(),
        };
        if let Err(error) = record.save(&self.state_dir) {
            tracing::warn!(pod = %self.id, %error, "the pod could not be adopted as it is now");
        }
    }

    /// Every pending call answers, then the process ends.
    pub(crate) fn leave(&self) {
        self.leaving.send_replace(true);
    }

    pub(crate) async fn left(&self) {
        // The sender lives as long as `self`.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    /// Waits for a value, or for the shim to leave.
    pub(crate) async fn told<T: Clone>(&self, mut told: watch::Receiver<Option<T>>) -> Result<T, Error> {
        tokio::select! {
            told = told.wait_for(Option::is_some) => {
                told.ok().and_then(|value| value.clone()).ok_or(Error::Leaving)
            }
            () = self.left() => Err(Error::Leaving),
        }
    }
}

impl State {
    pub(crate) fn container(&mut self, id: &ContainerId) -> Result<&mut Container, Error> {
        self.containers
            .get_mut(id)
            .ok_or_else(|| Error::NoContainer(id.clone()))
    }
}
