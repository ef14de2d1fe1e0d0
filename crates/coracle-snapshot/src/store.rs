//! The state directory: its lock, its layers, and the way a layer gets from staging to publication.

mod damage;
mod directories;
mod mounts;
mod staging;

pub(crate) use staging::Staging;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use coracle_sys::steps::entering;
use coracle_types::{ContainerId, Digest};
use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::Errno;

use crate::durable::Flusher;
use crate::erofs;
use crate::error::Error;
use crate::id::LayerId;
use crate::limits::Limits;
use crate::record::{self, LayerRecord};
use crate::snapshotter::{Layers, Usage};
use crate::walk;
use damage::random_as;
use directories::{lock_alone, names, private_directory};

const LAYERS: &str = "layers";
/// A layer's image inside its directory.
pub(crate) const IMAGE: &str = "layer.erofs";
const STAGING: &str = "staging";
const WRITABLE: &str = "writable";
const EMPTY: &str = "empty";
/// Beginnings of names in staging.
const GONE: &str = "gone";
const LOCK: &str = "snapshots.lock";
/// A layer's tree inside its directory, or what its image is mounted on.
pub(crate) const TREE: &str = "fs";
/// The ids of the layers below a writable layer, inside its directory.
pub(crate) const LOWERS: &str = "lowers.json";
/// The ids of the layers that are kept for what is mounted in the container, inside its directory.
pub(crate) const VOLUMES: &str = "volumes.json";

/// What is remembered of a published layer; its record on disk has the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    /// One file, to be mounted before its tree is opened.
    pub(crate) is_image: bool,
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
    /// Layers that containers use beside those below their writable layers.
    pub(crate) volumes: HashMap<ContainerId, Vec<LayerId>>,
    /// Damaged layers' directories in staging, on which containers still run.
    worn: Vec<damage::Worn>,
}

impl Index {
    /// Containers and the layers that each of them needs.
    fn users(&self) -> impl Iterator<Item = (&ContainerId, &LayerId)> {
        let of = |(container, layers)| std::iter::repeat(container).zip::<&Vec<LayerId>>(layers);
        self.writables
            .iter()
            .flat_map(of)
            .chain(self.volumes.iter().flat_map(of))
    }
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
    form: Form,
    /// Layers whose images are mounted. Taken after `index` where both are.
    mounted: Mutex<HashSet<LayerId>>,
}

/// What new layers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Directories and files of the host.
    Trees,
    /// One EROFS image each.
    Images,
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
    pub(crate) fn open(root: &Path, limits: Limits, wanted: Layers) -> Result<Self, Error> {
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
        let staging = private(STAGING)?;
        let store = Self {
            form: wanted.form(&staging)?,
            mounted: Mutex::default(),
            layers: private(LAYERS)?,
            staging,
            writable: private(WRITABLE)?,
            root: root.to_owned(),
            _lock: lock,
            limits,
            flusher: Flusher::default(),
            publishing: Mutex::default(),
            index: Mutex::default(),
        };
        private(EMPTY)?;
        store.read_writables()?;
        store.find_worn()?;
        store.read_layers()?;
        let _sweep = store.clean_staging()?;
        #[cfg(test)]
        _sweep.join().expect("removal does not panic");
        Ok(store)
    }

    /// What new layers become.
    pub(crate) fn form(&self) -> Form {
        self.form
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
        // Tried once, with the first image: a node may be started on an older kernel.
        let mut mountable = None;
        for name in names(&self.layers, || self.root.join(LAYERS))? {
            let found = self.read_layer(&name).and_then(|record| {
                let usable = record.image.is_none()
                    || match mountable {
                        Some(known) => known,
                        None => *mountable.insert(self.is_mountable(&name)?),
                    };
                usable
                    .then_some(record)
                    .ok_or_else(|| std::io::Error::other("this node mounts no images any more"))
            });
            match found {
                Ok(record) => {
                    if record.image.is_some() {
                        self.find_mount(&record.id)?;
                    }
                    self.index()
                        .layers
                        .insert(record.id.clone(), Published::of(&record));
                }
                Err(error) => {
                    let path = self.root.join(LAYERS).join(&name);
                    tracing::warn!(path = %path.display(), %error, "a broken layer is removed");
                    self.set_aside(&mut self.index(), &name)?;
                }
            }
        }
        Ok(())
    }

    fn is_mountable(&self, name: &str) -> std::io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open_directory(&self.layers, name)?;
        Ok(erofs::is_mountable(
            openat(&directory, IMAGE, flags, Mode::empty())?.as_fd(),
        ))
    }

    fn read_layer(&self, name: &str) -> std::io::Result<LayerRecord> {
        let directory = open_directory(&self.layers, name)?;
        open_directory(&directory, TREE)?;
        let record = LayerRecord::read(&directory)?;
        if record.id.directory() != name {
            return Err(std::io::Error::other(format!("its record is of {}", record.id)));
        }
        if let Some(image) = &record.image {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            erofs::check(&openat(&directory, IMAGE, flags, Mode::empty())?, image)?;
        }
        Ok(record)
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
            let volumes = open_directory(&self.writable, &name)
                .map_err(std::io::Error::from)
                .and_then(|directory| record::read(directory, VOLUMES));
            match volumes {
                Ok(volumes) => {
                    self.index().volumes.insert(container.clone(), volumes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%container, %error, "what is mounted in it besides is unknown");
                }
            }
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
        let mut leftovers = names(&self.staging, || self.root.join(STAGING))?;
        leftovers.retain(|name| !self.index().worn.iter().any(|worn| worn.name == *name));
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

    /// The directory of all writable layers.
    pub(crate) fn writable_root(&self) -> PathBuf {
        self.root.join(WRITABLE)
    }

    pub(crate) fn writable_path(&self, container: &ContainerId) -> PathBuf {
        self.root.join(WRITABLE).join(container.as_str())
    }

    /// The root of a published layer's tree.
    pub(crate) fn open_tree(&self, id: &LayerId) -> Result<OwnedFd, Error> {
        self.ensure_mounted(id)?;
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
            doomed.extend(Self::worn_out(&mut index));
            let below: HashSet<&LayerId> = index.users().map(|(_, layer)| layer).collect();
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
            if let Some((container, _)) = index.users().find(|(_, layer)| *layer == id) {
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
        let is_image = index.layers.get(id).is_some_and(|layer| layer.is_image);
        self.unmount(id, is_image)?;
        let name = random_as(GONE);
        entering("layer.withdraw");
        renameat(&self.layers, id.directory(), &self.staging, &name)
            .map_err(Error::state("move away", self.layer_path(id)))?;
        index.layers.remove(id);
        Ok((id.clone(), name))
    }

    /// Without a sync: after a power loss a layer that comes back is whole and is collected again.
    fn remove_withdrawn(&self, doomed: Vec<(LayerId, String)>) -> Result<Usage, Error> {
        let (mut freed, mut failure) = (Usage::default(), None);
        for (id, name) in doomed {
            entering("layer.remove");
            self.empty_image(&name);
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
        {
            let mut index = self.index();
            index.writables.remove(container);
            index.volumes.remove(container);
        }
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
            is_image: record.image.is_some(),
            usage: record.contents.usage,
            opaque_root: record.contents.opaque_root,
            has_whiteouts: !record.contents.whiteouts.is_empty(),
        }
    }
}

pub(crate) fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
