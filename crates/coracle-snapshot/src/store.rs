//! The state directory: its lock, its layers, and the way a layer gets from staging to publication.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use coracle_types::{ContainerId, Digest};
use rustix::fs::{
    CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, fsync, mkdirat, openat, renameat,
    renameat_with,
};
use rustix::io::Errno;

use crate::durable::Flusher;
use crate::error::Error;
use crate::extract::Contents;
use crate::id::LayerId;
use crate::limits::Limits;
use crate::record::{self, LayerRecord};
use crate::snapshotter::Usage;
use crate::walk;

const LAYERS: &str = "layers";
const STAGING: &str = "staging";
const WRITABLE: &str = "writable";
const EMPTY: &str = "empty";
const LOCK: &str = "snapshots.lock";
/// A layer's tree inside its directory.
pub(crate) const TREE: &str = "fs";
/// The ids of the layers below a writable layer, inside its directory.
pub(crate) const LOWERS: &str = "lowers.json";

/// What is remembered of a published layer; its record on disk has the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) usage: Usage,
    pub(crate) opaque_root: bool,
    /// Shown as it is, without overlay, its tree would show marks of removed files.
    pub(crate) has_whiteouts: bool,
}

#[derive(Default)]
pub(crate) struct Index {
    pub(crate) layers: HashMap<LayerId, Published>,
    /// How many [`Layer`]s there are of an id.
    held: HashMap<LayerId, usize>,
    pub(crate) writables: HashMap<ContainerId, Vec<LayerId>>,
}

/// The open state directory.
pub(crate) struct Store {
    pub(crate) root: PathBuf,
    pub(crate) layers: OwnedFd,
    staging: OwnedFd,
    pub(crate) writable: OwnedFd,
    _lock: OwnedFd,
    pub(crate) limits: Limits,
    flusher: Flusher,
    /// Taken for each change of what lies in `layers`, before [`Index`].
    publishing: Mutex<()>,
    index: Mutex<Index>,
}

/// A published layer. While this lives, [`gc`](crate::Snapshotter::gc) leaves the layer alone.
#[derive(Clone)]
pub struct Layer {
    pub(crate) id: LayerId,
    /// The place in the image it was asked for; none for a fix-up layer.
    pub(crate) chain_id: Option<Digest>,
    usage: Usage,
    _hold: Arc<Hold>,
}

impl Layer {
    /// The layer's id.
    #[must_use]
    pub fn id(&self) -> &LayerId {
        &self.id
    }

    /// What the layer takes.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("id", &self.id)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

struct Hold {
    store: Arc<Store>,
    id: LayerId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut index = self.store.index();
        if let Some(count) = index.held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                index.held.remove(&self.id);
            }
        }
    }
}

impl Store {
    pub(crate) fn open(root: &Path, limits: Limits) -> Result<Self, Error> {
        let path = |name: &str| root.join(name);
        let private = |name: &str| private_directory(&path(name));
        std::fs::create_dir_all(root).map_err(|source| Error::State {
            action: "make",
            path: root.to_owned(),
            source,
        })?;
        let root_fd = private_directory(root)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&root_fd, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::state("open", path(LOCK)))?;
        lock_alone(&lock, root)?;
        let store = Self {
            layers: private(LAYERS)?,
            staging: private(STAGING)?,
            writable: private(WRITABLE)?,
            root: root.to_owned(),
            _lock: lock,
            limits,
            flusher: Flusher::default(),
            publishing: Mutex::default(),
            index: Mutex::default(),
        };
        private(EMPTY)?;
        store.read_layers()?;
        store.read_writables()?;
        let _sweep = store.clean_staging()?;
        #[cfg(test)]
        _sweep.join().expect("removal does not panic");
        Ok(store)
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is whole; what is not goes to staging, to be removed: the image's owner finds the
    /// layer missing and pulls it again.
    fn read_layers(&self) -> Result<(), Error> {
        for name in names(&self.layers, || self.root.join(LAYERS))? {
            match self.read_layer(&name) {
                Ok(record) => {
                    self.index()
                        .layers
                        .insert(record.id.clone(), Published::of(&record));
                }
                Err(error) => {
                    let path = self.root.join(LAYERS).join(&name);
                    tracing::warn!(path = %path.display(), %error, "a broken layer is removed");
                    renameat(&self.layers, &name, &self.staging, format!("broken-{name}"))
                        .map_err(Error::state("move away", path))?;
                }
            }
        }
        Ok(())
    }

    fn read_layer(&self, name: &str) -> std::io::Result<LayerRecord> {
        let directory = open_directory(&self.layers, name)?;
        open_directory(&directory, TREE)?;
        let record = LayerRecord::read(&directory)?;
        if record.id.directory() == name {
            Ok(record)
        } else {
            Err(std::io::Error::other(format!("its record is of {}", record.id)))
        }
    }

    fn read_writables(&self) -> Result<(), Error> {
        for name in names(&self.writable, || self.root.join(WRITABLE))? {
            let Ok(container) = name.parse::<ContainerId>() else {
                tracing::warn!(name, "a directory among the writable layers is none of ours");
                continue;
            };
            // Not made durable: after a power loss it may be gone, and so is every container's life.
            let lowers = open_directory(&self.writable, &name)
                .map_err(std::io::Error::from)
                .and_then(|directory| record::read(directory, LOWERS))
                .unwrap_or_else(|error| {
                    tracing::warn!(%container, %error, "what its writable layer lies on is unknown");
                    Vec::new()
                });
            self.index().writables.insert(container, lowers);
        }
        Ok(())
    }

    /// Removes what a crash left in staging, on a thread: a large layer may take seconds, and the names
    /// found now are never used again.
    fn clean_staging(&self) -> Result<thread::JoinHandle<()>, Error> {
        let failed = |source| Error::State {
            action: "clean",
            path: self.root.join(STAGING),
            source,
        };
        let leftovers = names(&self.staging, || self.root.join(STAGING))?;
        let staging = self.staging.try_clone().map_err(failed)?;
        let sweep = move || {
            for name in leftovers {
                if let Err(error) = walk::remove(staging.as_fd(), OsStr::new(&name)) {
                    let error = std::io::Error::from(error);
                    tracing::warn!(name, %error, "a leftover in staging cannot be removed");
                }
            }
        };
        thread::Builder::new()
            .name("layer-sweep".into())
            .spawn(sweep)
            .map_err(failed)
    }

    /// The layer if it is published, held.
    pub(crate) fn hold(self: &Arc<Self>, id: &LayerId, chain_id: Option<&Digest>) -> Option<Layer> {
        let mut index = self.index();
        let usage = index.layers.get(id)?.usage;
        *index.held.entry(id.clone()).or_default() += 1;
        drop(index);
        let hold = Hold {
            store: Arc::clone(self),
            id: id.clone(),
        };
        Some(Layer {
            id: id.clone(),
            chain_id: chain_id.cloned(),
            usage,
            _hold: Arc::new(hold),
        })
    }

    pub(crate) fn layer_path(&self, id: &LayerId) -> PathBuf {
        self.root.join(LAYERS).join(id.directory()).join(TREE)
    }

    /// An empty directory: the lower directory of an image without layers.
    pub(crate) fn empty_path(&self) -> PathBuf {
        self.root.join(EMPTY)
    }

    pub(crate) fn writable_path(&self, container: &ContainerId) -> PathBuf {
        self.root.join(WRITABLE).join(container.as_str())
    }

    /// The root of a published layer's tree.
    pub(crate) fn open_tree(&self, id: &LayerId) -> Result<OwnedFd, Error> {
        open_directory(&self.layers, format!("{}/{TREE}", id.directory()))
            .map_err(Error::state("open", self.layer_path(id)))
    }

    pub(crate) fn read_record(&self, id: &LayerId) -> Result<LayerRecord, Error> {
        let name = id.directory();
        self.read_layer(&name).map_err(|source| Error::State {
            action: "read the record of",
            path: self.root.join(LAYERS).join(name),
            source,
        })
    }

    /// Layers, bottom first, as overlay stacks them: topmost first, none below an opaque root, and each
    /// once. Images have empty layers twice, which overlay refuses; of any layer the topmost place shows
    /// all that the others would.
    pub(crate) fn stack(&self, layers: &[LayerId]) -> Result<Vec<LayerId>, Error> {
        let index = self.index();
        let mut stack = Vec::with_capacity(layers.len());
        let mut seen = HashSet::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            let Some(published) = index.layers.get(layer) else {
                return Err(Error::LayerMissing(layer.clone()));
            };
            if seen.insert(layer) {
                stack.push(layer.clone());
            }
            if published.opaque_root {
                break;
            }
        }
        Ok(stack)
    }

    /// Removes published layers that `keep` does not name and nobody uses.
    pub(crate) fn collect(&self, keep: &HashSet<LayerId>) -> Result<Usage, Error> {
        let (mut doomed, mut failure) = (Vec::new(), None);
        {
            let _publishing = self.publishing();
            let mut index = self.index();
            let below: HashSet<&LayerId> = index.writables.values().flatten().collect();
            let victims: Vec<LayerId> = index
                .layers
                .keys()
                .filter(|id| !keep.contains(id) && !below.contains(id) && !index.held.contains_key(id))
                .cloned()
                .collect();
            for id in victims {
                match self.withdraw(&mut index, &id) {
                    Ok(withdrawn) => doomed.push(withdrawn),
                    Err(error) => failure = Some(error),
                }
            }
        }
        let freed = self.remove_withdrawn(doomed)?;
        failure.map_or(Ok(freed), Err)
    }

    /// Removes one layer unless it is used.
    pub(crate) fn remove_layer(&self, id: &LayerId) -> Result<Usage, Error> {
        let doomed = {
            let _publishing = self.publishing();
            let mut index = self.index();
            if !index.layers.contains_key(id) {
                return Ok(Usage::default());
            }
            let in_use = |user| Error::LayerInUse {
                layer: id.clone(),
                user,
            };
            if let Some((container, _)) = index.writables.iter().find(|(_, lowers)| lowers.contains(id)) {
                return Err(in_use(format!("container {container}")));
            }
            if index.held.contains_key(id) {
                return Err(in_use("an image that is being pulled or looked into".to_owned()));
            }
            self.withdraw(&mut index, id)?
        };
        self.remove_withdrawn(vec![doomed])
    }

    /// Takes a layer off the published ones; it is in staging then.
    fn withdraw(&self, index: &mut Index, id: &LayerId) -> Result<(LayerId, String), Error> {
        let name = format!("gone-{}", random_name());
        renameat(&self.layers, id.directory(), &self.staging, &name)
            .map_err(Error::state("move away", self.layer_path(id)))?;
        index.layers.remove(id);
        Ok((id.clone(), name))
    }

    /// Without a sync: after a power loss a layer that comes back is whole and is collected again.
    fn remove_withdrawn(&self, doomed: Vec<(LayerId, String)>) -> Result<Usage, Error> {
        let (mut freed, mut failure) = (Usage::default(), None);
        for (id, name) in doomed {
            match walk::remove(self.staging.as_fd(), OsStr::new(&name)) {
                Ok((all, _)) => freed = freed + all,
                Err(error) => {
                    failure.get_or_insert(Error::State {
                        action: "remove",
                        path: self.layer_path(&id),
                        source: error.into(),
                    });
                }
            }
        }
        failure.map_or(Ok(freed), Err)
    }

    /// Moves a container's writable layer out of sight and removes it.
    pub(crate) fn remove_writable(&self, container: &ContainerId) -> Result<(), Error> {
        let failed = |errno| Error::state("remove", self.writable_path(container))(errno);
        // Found again by name when an earlier attempt failed half-way.
        let name = format!("writable-{container}");
        match renameat(&self.writable, container.as_str(), &self.staging, &name) {
            Ok(()) | Err(Errno::NOENT) => {}
            // An earlier attempt's remains are in the way.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                self.remove_staged(container, &name)?;
                renameat(&self.writable, container.as_str(), &self.staging, &name).map_err(failed)?;
            }
            Err(errno) => return Err(failed(errno)),
        }
        self.index().writables.remove(container);
        self.remove_staged(container, &name)
    }

    fn remove_staged(&self, container: &ContainerId, name: &str) -> Result<(), Error> {
        walk::remove(self.staging.as_fd(), OsStr::new(name))
            .map(drop)
            .map_err(|error| Error::State {
                action: "remove",
                path: self.writable_path(container),
                source: error.into(),
            })
    }
}

impl Published {
    fn of(record: &LayerRecord) -> Self {
        Self {
            usage: record.contents.usage,
            opaque_root: record.contents.opaque_root,
            has_whiteouts: !record.contents.whiteouts.is_empty(),
        }
    }
}

/// A directory in staging; it goes with this value unless it is published.
pub(crate) struct Staging {
    store: Arc<Store>,
    name: String,
    directory: OwnedFd,
}

impl Staging {
    pub(crate) fn make(store: &Arc<Store>) -> Result<Self, Error> {
        let name = random_name();
        let failed = |errno| Error::state("make", store.root.join(STAGING).join(&name))(errno);
        mkdirat(&store.staging, &name, Mode::RWXU).map_err(failed)?;
        let directory = open_directory(&store.staging, &name).map_err(failed)?;
        Ok(Self {
            store: Arc::clone(store),
            name,
            directory,
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.store.root.join(STAGING).join(&self.name)
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Makes the tree's root and opens it.
    pub(crate) fn make_tree(&self) -> Result<OwnedFd, Error> {
        self.make_directory(TREE, 0o755)
    }

    /// Makes a directory with exactly this mode.
    pub(crate) fn make_directory(&self, name: &str, mode: u32) -> Result<OwnedFd, Error> {
        let failed = |errno| Error::state("make", self.path().join(name))(errno);
        let mode = Mode::from_raw_mode(mode);
        mkdirat(&self.directory, name, mode).map_err(failed)?;
        let made = open_directory(&self.directory, name).map_err(failed)?;
        fchmod(&made, mode).map_err(failed)?;
        Ok(made)
    }

    /// Writes the record, writes all out, and makes the layer visible by one rename. Gives the layer that
    /// is there if another was faster.
    pub(crate) fn publish(
        mut self,
        id: LayerId,
        chain_id: Option<&Digest>,
        contents: Contents,
    ) -> Result<Layer, Error> {
        let record = LayerRecord::new(id, contents);
        let id = &record.id;
        let path = self.store.layer_path(id);
        record.write(&self.directory).map_err(|source| Error::State {
            action: "write the record of",
            path: path.clone(),
            source,
        })?;
        self.store
            .flusher
            .flush(&self.directory)
            .map_err(Error::state("write out", &path))?;

        let store = Arc::clone(&self.store);
        let publishing = store.publishing();
        if let Some(there) = store.hold(id, chain_id) {
            return Ok(there);
        }
        let name = id.directory();
        renameat_with(
            &store.staging,
            &self.name,
            &store.layers,
            &name,
            RenameFlags::NOREPLACE,
        )
        .map_err(Error::state("publish", &path))?;
        if let Err(errno) = fsync(&store.layers) {
            if renameat(&store.layers, &name, &store.staging, &self.name).is_err() {
                self.name.clear();
            }
            return Err(Error::state("publish", &path)(errno));
        }
        self.name.clear();
        store.index().layers.insert(id.clone(), Published::of(&record));
        let layer = store.hold(id, chain_id);
        drop(publishing);
        // Nobody can have collected it: that takes the lock that was just given back.
        layer.ok_or_else(|| Error::LayerMissing(record.id.clone()))
    }

    /// Makes this a container's writable layer by one rename; false if it has one already.
    pub(crate) fn become_writable(mut self, container: &ContainerId) -> Result<bool, Error> {
        let store = Arc::clone(&self.store);
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(
            &store.staging,
            &self.name,
            &store.writable,
            container.as_str(),
            flags,
        ) {
            Ok(()) => {
                self.name.clear();
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(Error::state("make", store.writable_path(container))(errno)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        if let Err(error) = walk::remove(self.store.staging.as_fd(), OsStr::new(&self.name)) {
            let error = std::io::Error::from(error);
            tracing::warn!(path = %self.path().display(), %error, "a leftover stays until the next start");
        }
    }
}

/// Takes the lock. A process that another one is just forking holds its locks until it executes its program,
/// and a daemon that is going holds them until it is gone: both are waited for, for a moment.
fn lock_alone(lock: &OwnedFd, root: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    root: root.to_owned(),
                });
            }
            other => return other.map_err(Error::state("lock", root.join(LOCK))),
        }
    }
}

/// Opens a directory that only its owner may enter, made if missing.
fn private_directory(path: &Path) -> Result<OwnedFd, Error> {
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::state("make", path)(errno)),
    }
    let directory = open_directory(CWD, path).map_err(Error::state("open", path))?;
    fchmod(&directory, Mode::RWXU).map_err(Error::state("make private", path))?;
    Ok(directory)
}

pub(crate) fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Names in a directory of ours; all are ASCII, others are left alone.
fn names(directory: &OwnedFd, path: impl Fn() -> PathBuf) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(|errno| Error::state("list", path())(errno))? {
        let entry = entry.map_err(|errno| Error::state("list", path())(errno))?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => names.push(name.to_owned()),
            Err(_) => {}
        }
    }
    Ok(names)
}

/// 128 random bits.
fn random_name() -> String {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .expect("getrandom(2) of 16 bytes cannot fail on the supported kernels (>= 5.14)");
    hex::encode(bytes)
}
