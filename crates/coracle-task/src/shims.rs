//! All shims of a node: launched through the keeper, found again by their sockets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_keeper::client::Keeper;
use coracle_keeper::{KeeperConfig, Program};
use coracle_types::{Instance, Kind, Kinded, PodSandboxId};
use serde::Deserialize;

use crate::error::Error;
use crate::shim::{Shim, WeakShim};

/// How long a shim may be silent, and one that was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a shim that is dying.
const PAUSE: Duration = Duration::from_millis(3);

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
    /// When no keeper can be had, the shim does not come up, or one is there and does not answer.
    pub async fn launch(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        let socket = state_dir.join("shim.sock");
        let begin = Instant::now();
        loop {
            let silent = match self.greet(pod, state_dir).await {
                Err(error) if error.kind() == Kind::Unavailable => error,
                answered => return answered,
            };
            let (shims, id, directory) = (Arc::clone(self), pod.clone(), state_dir.to_owned());
            let spawned = tokio::task::spawn_blocking(move || shims.spawn(&id, &directory)).await;
            match spawned.map_err(|_| Error::Interrupted { pod: pod.clone() })?? {
                Spawned::Yes => {}
                Spawned::ByAnotherKeeper => self.tell_the_living(),
                // It is dying, or it is stuck.
                Spawned::OneIsThere if begin.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Spawned::OneIsThere => return Err(silent),
            }
            let shim = Shim::connect(pod, &socket).await?;
            self.remember(&shim);
            return Ok(shim);
        }
    }

    /// Connects to a shim that answers. That it takes a connection is no proof: of a process that was killed
    /// the kernel closes the listening socket last.
    async fn greet(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        let shim = Shim::connect(pod, &state_dir.join("shim.sock")).await?;
        tokio::time::timeout(PATIENCE, shim.ping())
            .await
            .unwrap_or_else(|_| Err(Error::Silent { pod: pod.clone() }))?;
        self.remember(&shim);
        let (shims, directory) = (Arc::clone(self), state_dir.to_owned());
        let theirs = tokio::task::spawn_blocking(move || shims.other_keeper(&directory)).await;
        if let Ok(None) = theirs {
            self.hand_over(&shim).await;
        }
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

    fn spawn(&self, pod: &PodSandboxId, state_dir: &Path) -> Result<Spawned, Error> {
        let failed = |source| keeper_failed(&self.config, source);
        // The orphans of a dead shim are its own keeper's children: there, their exits are known.
        if let Some(keeper) = self.other_keeper(state_dir) {
            return spawned(keeper.spawn_shim(pod, state_dir), Spawned::Yes).map_err(failed);
        }
        match self.keeper().spawn_shim(pod, state_dir) {
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::warn!(%error, "another keeper is started");
                let keeper = Arc::new(Keeper::ensure(&self.config).map_err(failed)?);
                *lock(&self.keeper) = Arc::clone(&keeper);
                spawned(keeper.spawn_shim(pod, state_dir), Spawned::ByAnotherKeeper).map_err(failed)
            }
            other => spawned(other, Spawned::Yes).map_err(failed),
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

/// What came of asking for a shim.
enum Spawned {
    Yes,
    /// After the one before had died.
    ByAnotherKeeper,
    /// The pod has a shim.
    OneIsThere,
}

fn spawned(
    answer: Result<i32, coracle_keeper::Error>,
    done: Spawned,
) -> Result<Spawned, coracle_keeper::Error> {
    match answer {
        Ok(_) => Ok(done),
        Err(error) if error.kind() == Kind::AlreadyExists => Ok(Spawned::OneIsThere),
        Err(error) => Err(error),
    }
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
