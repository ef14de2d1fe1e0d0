//! All shims of a node: launched through the keeper, found again by their sockets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_keeper::client::Keeper;
use coracle_keeper::{KeeperConfig, Program};
use coracle_types::{Instance, Kind, Kinded, PodSandboxId};
use serde::Deserialize;

use crate::error::Error;
use crate::shim::{Shim, WeakShim};

/// Where shims and their keeper live.
#[derive(Debug, Clone)]
pub struct ShimsConfig {
    /// `/run/coracle`.
    pub runtime_dir: PathBuf,
    /// Whose they are.
    pub instance: Instance,
    /// Absolute cgroup of keeper and shims in every hierarchy.
    pub cgroup: String,
    /// What is executed as the keeper.
    pub program: Program,
}

/// The shims of a node.
#[derive(Debug)]
pub struct Shims {
    config: KeeperConfig,
    keeper: Mutex<Arc<Keeper>>,
    /// Those that somebody holds, for a keeper that must be told what the last one held.
    living: Mutex<Vec<WeakShim>>,
}

/// The part of a shim's state file that tells who holds the pod's descriptors.
#[derive(Debug, Default, Deserialize)]
struct Recorded {
    #[serde(default)]
    keeper: Option<PathBuf>,
}

impl Recorded {
    /// A file that cannot be read is the shim's to complain of.
    fn load(state_dir: &Path) -> Self {
        std::fs::read(state_dir.join("shim.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }
}

impl Shims {
    /// Connects to the keeper of this program's version, started first when there is none.
    ///
    /// # Errors
    /// When no keeper can be had.
    pub async fn start(config: ShimsConfig) -> Result<Arc<Self>, Error> {
        let ShimsConfig {
            runtime_dir,
            instance,
            cgroup,
            program,
        } = config;
        let config = KeeperConfig {
            runtime_dir,
            cgroup,
            instance,
            program,
        };
        let ensured = config.clone();
        let keeper = tokio::task::spawn_blocking(move || Keeper::ensure(&ensured)).await;
        let keeper = match keeper {
            Ok(keeper) => keeper.map_err(|source| keeper_failed(&config, source))?,
            Err(_) => {
                return Err(keeper_failed(
                    &config,
                    coracle_keeper::Error::Protocol("interrupted".to_owned()),
                ));
            }
        };
        Ok(Arc::new(Self {
            config,
            keeper: Mutex::new(Arc::new(keeper)),
            living: Mutex::new(Vec::new()),
        }))
    }

    /// Connects to the pod's shim when it lives. Else the keeper forks one, which adopts the pod from its
    /// state file and what the keeper holds, if there is any of that. A keeper that died is replaced first.
    ///
    /// # Errors
    /// When no keeper can be had, or the shim does not come up.
    pub async fn launch(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        let socket = state_dir.join("shim.sock");
        match Shim::connect(pod, &socket).await {
            Ok(shim) => {
                self.remember(&shim);
                let (shims, directory) = (Arc::clone(self), state_dir.to_owned());
                let theirs = tokio::task::spawn_blocking(move || shims.other_keeper(&directory)).await;
                if let Ok(None) = theirs {
                    self.hand_over(&shim).await;
                }
                return Ok(shim);
            }
            Err(error) if error.kind() == Kind::Unavailable => {}
            Err(error) => return Err(error),
        }
        let (shims, id, directory) = (Arc::clone(self), pod.clone(), state_dir.to_owned());
        let spawned = tokio::task::spawn_blocking(move || shims.spawn(&id, &directory)).await;
        let replaced = spawned.map_err(|_| Error::Interrupted { pod: pod.clone() })??;
        if let Replaced::Yes = replaced {
            self.tell_the_living();
        }
        let shim = Shim::connect(pod, &socket).await?;
        self.remember(&shim);
        Ok(shim)
    }

    /// [`Shims::launch`] for a pod that had a shim before.
    ///
    /// # Errors
    /// As [`Shims::launch`].
    pub async fn reconnect(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        self.launch(pod, state_dir).await
    }

    /// Has the keeper leave as soon as its last pod has: for a node that is taken down.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn retire(self: &Arc<Self>) -> Result<(), Error> {
        let shims = Arc::clone(self);
        let retired = tokio::task::spawn_blocking(move || shims.keeper().retire()).await;
        match retired {
            Ok(retired) => retired.map_err(|source| keeper_failed(&self.config, source)),
            Err(_) => Ok(()),
        }
    }

    fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&lock(&self.keeper))
    }

    /// The keeper of another program version that holds a pod's descriptors and answers.
    fn other_keeper(&self, state_dir: &Path) -> Option<Keeper> {
        let socket = Recorded::load(state_dir).keeper?;
        if socket == self.keeper().socket() {
            return None;
        }
        Keeper::connect(&socket).ok()
    }

    fn spawn(&self, pod: &PodSandboxId, state_dir: &Path) -> Result<Replaced, Error> {
        let failed = |source| keeper_failed(&self.config, source);
        // The orphans of a dead shim are its own keeper's children: there, their exits are known.
        if let Some(keeper) = self.other_keeper(state_dir) {
            return unless_it_lives(keeper.spawn_shim(pod, state_dir))
                .map(|()| Replaced::No)
                .map_err(failed);
        }
        match self.keeper().spawn_shim(pod, state_dir) {
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::warn!(%error, "another keeper is started");
                let keeper = Arc::new(Keeper::ensure(&self.config).map_err(failed)?);
                *lock(&self.keeper) = Arc::clone(&keeper);
                keeper.spawn_shim(pod, state_dir).map_err(failed)?;
                Ok(Replaced::Yes)
            }
            other => unless_it_lives(other).map(|()| Replaced::No).map_err(failed),
        }
    }

    fn remember(&self, shim: &Shim) {
        let mut living = lock(&self.living);
        living.retain(WeakShim::is_held);
        living.push(shim.downgrade());
    }

    /// A keeper died and another took its place: every shim deposits anew.
    fn tell_the_living(self: &Arc<Self>) {
        for shim in lock(&self.living).iter().filter_map(WeakShim::upgrade) {
            let shims = Arc::clone(self);
            tokio::spawn(async move { shims.hand_over(&shim).await });
        }
    }

    /// Has a shim deposit with the keeper of now, unless it did. Without that it lives on; only its death
    /// would cost the pod its output.
    async fn hand_over(&self, shim: &Shim) {
        let keeper = self.keeper();
        if let Err(error) = shim.change_keeper(keeper.socket()).await {
            tracing::warn!(?shim, %error, "its descriptors are not held by the keeper");
        }
    }
}

/// A pod's shim that lives already is as good as a new one.
fn unless_it_lives(spawned: Result<i32, coracle_keeper::Error>) -> Result<(), coracle_keeper::Error> {
    match spawned {
        Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Whether a new keeper was started.
enum Replaced {
    Yes,
    No,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keeper_failed(config: &KeeperConfig, source: coracle_keeper::Error) -> Error {
    Error::Keeper {
        runtime_dir: config.runtime_dir.clone(),
        source,
    }
}
