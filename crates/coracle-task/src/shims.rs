//! All shims of a node: launched through the keeper, found again by their sockets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_keeper::client::Keeper;
use coracle_keeper::{KeeperConfig, Program};
use coracle_types::{Instance, Kind, Kinded, PodSandboxId};

use crate::error::Error;
use crate::shim::Shim;

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
        }))
    }

    /// Has the keeper fork a shim for `pod` and connects to it. A keeper that died is replaced first.
    ///
    /// # Errors
    /// When no keeper can be had, or the shim does not come up.
    pub async fn launch(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        let (shims, id, directory) = (Arc::clone(self), pod.clone(), state_dir.to_owned());
        let spawned = tokio::task::spawn_blocking(move || shims.spawn(&id, &directory)).await;
        spawned.map_err(|_| Error::Interrupted { pod: pod.clone() })??;
        Shim::connect(pod, &state_dir.join("shim.sock")).await
    }

    /// Connects to the pod's shim when it lives, else has another one adopt the pod from its state file and
    /// what the keeper holds.
    ///
    /// # Errors
    /// As [`Shims::launch`].
    pub async fn reconnect(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        match Shim::connect(pod, &state_dir.join("shim.sock")).await {
            Ok(shim) => Ok(shim),
            Err(error) if error.kind() == Kind::Unavailable => self.launch(pod, state_dir).await,
            Err(error) => Err(error),
        }
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
        Arc::clone(&self.keeper.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn(&self, pod: &PodSandboxId, state_dir: &Path) -> Result<(), Error> {
        let failed = |source| keeper_failed(&self.config, source);
        match self.keeper().spawn_shim(pod, state_dir) {
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::warn!(%error, "another keeper is started");
                let keeper = Arc::new(Keeper::ensure(&self.config).map_err(failed)?);
                *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keeper);
                keeper.spawn_shim(pod, state_dir).map_err(failed)?;
            }
            other => {
                other.map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn keeper_failed(config: &KeeperConfig, source: coracle_keeper::Error) -> Error {
    Error::Keeper {
        runtime_dir: config.runtime_dir.clone(),
        source,
    }
}
