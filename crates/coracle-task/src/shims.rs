//! All shims of a node: launched through the keeper, found again by their sockets.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use coracle_keeper::client::Keeper;
use coracle_keeper::{KeeperConfig, Program};
use coracle_types::format::Newer;
use coracle_types::{Instance, Kind, Kinded, PodSandboxId};
use serde::Deserialize;

use crate::error::Error;
use crate::patience::{Deadlines, Limit, Patience};
use crate::shim::{Shim, WeakShim};

/// How long one that was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often shims that nobody asks anything are looked after, all at once.
const ROUND: Duration = Duration::from_secs(30);
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
    /// How long a shim may take to answer.
    pub deadlines: Deadlines,
    /// What shims log: a filter in their own words.
    pub log: String,
    /// Told of every keeper that is connected to before it is asked for a shim, on a thread that may block.
    pub settle: Option<Settle>,
}

/// Gives a keeper its place.
#[derive(Clone)]
pub struct Settle(pub Arc<Place>);

/// What is called with a keeper's socket and pid.
pub type Place = dyn Fn(&Path, i32) + Send + Sync;

impl std::fmt::Debug for Settle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settle")
    }
}

impl Settle {
    fn ensured(settle: Option<&Self>, config: &KeeperConfig) -> Result<Keeper, coracle_keeper::Error> {
        let keeper = Keeper::ensure(config)?;
        if let Some(Self(settle)) = settle {
            settle(keeper.socket(), keeper.status()?.pid);
        }
        Ok(keeper)
    }
}

/// The shims of a node.
#[derive(Debug)]
pub struct Shims {
    config: KeeperConfig,
    settle: Option<Settle>,
    keeper: Mutex<Arc<Keeper>>,
    /// Why no other could be had, since the last one died.
    keeperless: Mutex<Option<Keeperless>>,
    patience: Arc<Patience>,
    log: Mutex<String>,
    /// Those that somebody holds, for a keeper that must be told what the last one held.
    living: Mutex<Vec<WeakShim>>,
}

/// The keeper died, and another could not be had when it was last tried, by a start or by the timer. Not known while
/// nobody has missed it, for the next start makes another.
#[derive(Debug, Clone)]
pub struct Keeperless {
    /// When it was missed first.
    pub since: Instant,
    /// Why there was none the last time.
    pub why: String,
}

/// The part of a shim's state file that tells who holds the pod's descriptors.
#[derive(Debug, Default, Deserialize)]
struct Recorded {
    #[serde(default)]
    keeper: Option<PathBuf>,
    #[serde(default)]
    shim: Option<RecordedProcess>,
}

/// A process by what does not come twice.
#[derive(Debug, Clone, Copy, Deserialize)]
struct RecordedProcess {
    pid: i32,
    started: u64,
}

impl Recorded {
    /// The format that shims of this program read and write.
    const FORMAT: u32 = 1;

    /// Whether a shim of this program could take the pod over.
    fn check(state_dir: &Path) -> Result<(), Error> {
        let path = state_dir.join("shim.json");
        let text = std::fs::read(&path).unwrap_or_default();
        Newer::check(&text, Self::FORMAT).map_err(|newer| Error::Newer { path, newer })
    }

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
            deadlines,
            log,
            settle,
        } = config;
        let config = KeeperConfig {
            runtime_dir,
            cgroup,
            instance,
            program,
        };
        let (ensured, place) = (config.clone(), settle.clone());
        let keeper = tokio::task::spawn_blocking(move || Settle::ensured(place.as_ref(), &ensured)).await;
        let keeper = match keeper {
            Ok(keeper) => keeper.map_err(|source| keeper_failed(&config, source))?,
            Err(_) => {
                return Err(keeper_failed(
                    &config,
                    coracle_keeper::Error::Protocol("interrupted".to_owned()),
                ));
            }
        };
        let shims = Arc::new(Self {
            config,
            settle,
            keeper: Mutex::new(Arc::new(keeper)),
            keeperless: Mutex::new(None),
            patience: Arc::new(Patience::new(deadlines)),
            log: Mutex::new(log),
            living: Mutex::new(Vec::new()),
        });
        tokio::spawn(look_after(Arc::downgrade(&shims)));
        Ok(shims)
    }

    /// Connects to the pod's shim when it lives. Else the keeper forks one, which adopts the pod from its
    /// state file and what the keeper holds, if there is any of that. A keeper that died is replaced first.
    ///
    /// # Errors
    /// When no keeper can be had, the shim does not come up, or one is there and does not answer.
    pub async fn launch(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        let begin = Instant::now();
        loop {
            // One that was silent for too long has been killed by then.
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
            let shim = Shim::connect(pod, state_dir, self).await?;
            self.remember(&shim);
            return Ok(shim);
        }
    }

    /// Connects to a shim that answers. That it takes a connection is no proof: of a process that was killed
    /// the kernel closes the listening socket last.
    async fn greet(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> Result<Shim, Error> {
        let shim = Shim::connect(pod, state_dir, self).await?;
        shim.ping(Limit::Call).await?;
        // It may have been born under another configuration.
        let filter = lock(&self.log).clone();
        shim.set_log(&filter).await?;
        self.remember(&shim);
        let (shims, directory) = (Arc::clone(self), state_dir.to_owned());
        let theirs = tokio::task::spawn_blocking(move || shims.other_keeper(&directory)).await;
        if let Ok(None) = theirs {
            self.hand_over(&shim).await;
        }
        Ok(shim)
    }

    pub(crate) fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }

    /// How long shims may take from now on.
    pub fn set_deadlines(&self, deadlines: Deadlines) {
        self.patience.set(deadlines);
    }

    /// What shims log from now on, those that live and those to come.
    pub fn set_log(&self, filter: &str) {
        filter.clone_into(&mut lock(&self.log));
        for shim in lock(&self.living).iter().filter_map(WeakShim::upgrade) {
            let filter = filter.to_owned();
            tokio::spawn(async move {
                if let Err(error) = shim.set_log(&filter).await {
                    tracing::warn!(?shim, %error, "it logs as before");
                }
            });
        }
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

    /// Kills a pod's shim: its keeper does, or else whoever reads in the state file which process it is.
    /// Says whether it was found.
    pub(crate) async fn kill(self: &Arc<Self>, pod: &PodSandboxId, state_dir: &Path) -> bool {
        let (shims, id, directory) = (Arc::clone(self), pod.clone(), state_dir.to_owned());
        let killed = tokio::task::spawn_blocking(move || shims.kill_blocking(&id, &directory)).await;
        killed.unwrap_or(false)
    }

    fn kill_blocking(&self, pod: &PodSandboxId, state_dir: &Path) -> bool {
        let by_keeper = match self.other_keeper(state_dir) {
            Some(keeper) => keeper.kill_shim(pod),
            None => self.keeper().kill_shim(pod),
        };
        let Err(error) = by_keeper else { return true };
        let Some(process) = Recorded::load(state_dir).shim else {
            tracing::error!(%pod, %error, "no keeper can kill the shim, and no file says which process it is");
            return false;
        };
        coracle_keeper::process::kill_recorded(process.pid, process.started)
            .inspect_err(|error| tracing::error!(%pod, %error, "the shim cannot be killed"))
            .is_ok()
    }

    /// Every pod of which a keeper of this node forked a shim that lives, or holds something.
    ///
    /// # Errors
    /// When the keeper of now does not answer.
    pub async fn pods(self: &Arc<Self>) -> Result<Vec<PodSandboxId>, Error> {
        let shims = Arc::clone(self);
        let pods = tokio::task::spawn_blocking(move || shims.pods_blocking()).await;
        pods.unwrap_or(Ok(Vec::new()))
            .map_err(|source| keeper_failed(&self.config, source))
    }

    fn pods_blocking(&self) -> Result<Vec<PodSandboxId>, coracle_keeper::Error> {
        let own = self.keeper();
        let mut pods = own.pods()?;
        let others = std::fs::read_dir(self.config.runtime_dir.join("keeper"));
        for path in others.into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "sock") && path != own.socket() {
                // One of an older program may not know the question: its pods are not known then.
                pods.extend(
                    Keeper::connect(&path)
                        .and_then(|keeper| keeper.pods())
                        .unwrap_or_default(),
                );
            }
        }
        pods.sort_unstable();
        pods.dedup();
        Ok(pods)
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
        Recorded::check(state_dir)?;
        let log = lock(&self.log).clone();
        let failed = |source| keeper_failed(&self.config, source);
        // The orphans of a dead shim are its own keeper's children: there, their exits are known.
        if let Some(keeper) = self.other_keeper(state_dir) {
            return spawned(keeper.spawn_shim(pod, state_dir, &log), Spawned::Yes).map_err(failed);
        }
        match self.keeper().spawn_shim(pod, state_dir, &log) {
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::warn!(%error, "another keeper is started");
                let keeper = self.replace_keeper().map_err(failed)?;
                spawned(keeper.spawn_shim(pod, state_dir, &log), Spawned::ByAnotherKeeper).map_err(failed)
            }
            other => spawned(other, Spawned::Yes).map_err(failed),
        }
    }

    /// Another keeper in place of one that died; remembers when none can be had.
    fn replace_keeper(&self) -> Result<Arc<Keeper>, coracle_keeper::Error> {
        let ensured = Settle::ensured(self.settle.as_ref(), &self.config);
        {
            let mut keeperless = lock(&self.keeperless);
            *keeperless = ensured.as_ref().err().map(|error| Keeperless {
                since: keeperless.as_ref().map_or_else(Instant::now, |last| last.since),
                why: error.to_string(),
            });
        }
        let keeper = Arc::new(ensured?);
        *lock(&self.keeper) = Arc::clone(&keeper);
        Ok(keeper)
    }

    /// Whether no pod can be started for want of a keeper.
    #[must_use]
    pub fn keeperless(&self) -> Option<Keeperless> {
        lock(&self.keeperless).clone()
    }

    /// Tries again what failed; nobody may start a pod on a node that says that it cannot.
    async fn seek_keeper(self: &Arc<Self>) {
        if lock(&self.keeperless).is_none() {
            return;
        }
        let shims = Arc::clone(self);
        match tokio::task::spawn_blocking(move || shims.replace_keeper()).await {
            Ok(Ok(_)) => {
                tracing::info!("there is a keeper again");
                self.tell_the_living();
            }
            Ok(Err(error)) => tracing::warn!(%error, "there is still no keeper"),
            Err(error) => tracing::warn!(%error, "looking for a keeper ended early"),
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

/// Finds shims that hang while nobody asks them anything: their containers' output would stand still and
/// their ends stay unknown. One timer for all.
async fn look_after(shims: Weak<Shims>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(shims) = shims.upgrade() else { return };
        shims.seek_keeper().await;
        let living: Vec<_> = lock(&shims.living).iter().filter_map(WeakShim::upgrade).collect();
        drop(shims);
        let asked: Vec<_> = living
            .into_iter()
            .map(|shim| tokio::spawn(async move { shim.ping(Limit::Operation).await }))
            .collect();
        for one in asked {
            // One that is gone, or was killed for its silence, is told by its connection.
            let _ = one.await;
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
