//! The pod as its shim holds it: sandbox, containers, account with the keeper, state file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_container::StandIn;
use coracle_types::format::Format;
use coracle_types::{ContainerId, PodSandboxId};
use tokio::sync::watch;

use crate::container::Container;
use crate::deposits::Deposits;
use crate::error::Error;
use crate::log::Pool;
use crate::record::{ProcessRecord, Record};
use crate::sandbox::Sandbox;

/// The shim's only state. One thread uses it; the mutex is for the service traits, which ask for `Sync`, and
/// is never held over an await.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: PodSandboxId,
    pub(crate) state_dir: PathBuf,
    /// This process.
    own: ProcessRecord,
    state: Mutex<State>,
    leaving: watch::Sender<bool>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    pub(crate) deposits: Deposits,
    pub(crate) pool: Pool,
    /// By the id of the container or sandbox that they stand in for.
    pub(crate) stand_ins: BTreeMap<String, StandIn>,
}

impl Pod {
    pub(crate) fn new(id: PodSandboxId, state_dir: PathBuf, deposits: Deposits) -> Self {
        let state = State {
            sandbox: None,
            containers: BTreeMap::new(),
            deposits,
            pool: Pool::default(),
            stand_ins: BTreeMap::new(),
        };
        Self {
            id,
            state_dir,
            own: ProcessRecord::of(rustix::process::getpid().as_raw_nonzero().get()),
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
            format: Format,
            keeper: state.deposits.socket(),
            shim: Some(self.own),
            sandbox: state.sandbox.as_ref().map(Sandbox::record),
            containers: state.containers.values().map(Container::record).collect(),
        };
        if let Err(error) = record.save(&self.state_dir) {
            tracing::warn!(pod = %self.id, %error, "the pod could not be adopted as it is now");
        }
    }

    /// Makes a process that stands in for the first one of `id`; its pid.
    pub(crate) fn begin_stand_in(&self, id: &str) -> Result<i32, Error> {
        let stand_in = StandIn::begin().map_err(|source| Error::Namespaces {
            operation: "make a process that stands in for the first one",
            source,
        })?;
        let pid = stand_in.pid().as_raw_nonzero().get();
        self.state().stand_ins.insert(id.to_owned(), stand_in);
        Ok(pid)
    }

    pub(crate) fn end_stand_in(&self, id: &str) {
        self.state().stand_ins.remove(id);
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
