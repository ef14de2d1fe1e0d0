//! Which pods and containers there are: by id, by the beginning of an id, by name.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_types::pod::PodSandboxMetadata;
use coracle_types::{ContainerId, Kind, PodSandboxId};

use crate::api::IdPrefix;
use crate::error::EngineError;
use crate::pod::PodHandle;

/// Finds the actor that a request is for. No lookup scans: ids lie in order, names are hashed.
#[derive(Debug, Default)]
pub(crate) struct Index(Mutex<Maps>);

#[derive(Debug, Default)]
struct Maps {
    pods: BTreeMap<String, PodHandle>,
    containers: BTreeMap<String, (ContainerId, PodSandboxId)>,
    names: HashMap<PodSandboxMetadata, PodSandboxId>,
}

/// What became of a name that was asked for.
pub(crate) enum Reserved {
    /// It was free and is now this pod's.
    New,
    /// It is this pod's.
    Taken(PodHandle),
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the pod that `make` gives, unless its name is taken.
    pub(crate) fn reserve(
        &self,
        name: &PodSandboxMetadata,
        make: impl FnOnce() -> Result<PodHandle, EngineError>,
    ) -> Result<Reserved, EngineError> {
        let mut maps = self.lock();
        if let Some(handle) = maps.names.get(name).and_then(|id| maps.pods.get(id.as_str())) {
            return Ok(Reserved::Taken(handle.clone()));
        }
        let handle = make()?;
        maps.names.insert(name.clone(), handle.id().clone());
        maps.pods.insert(handle.id().as_str().to_owned(), handle);
        Ok(Reserved::New)
    }

    /// Forgets a pod and its name.
    pub(crate) fn remove_pod(&self, id: &PodSandboxId, name: &PodSandboxMetadata) {
        let mut maps = self.lock();
        maps.pods.remove(id.as_str());
        if maps.names.get(name) == Some(id) {
            maps.names.remove(name);
        }
    }

    /// Enters a container.
    pub(crate) fn insert_container(&self, id: &ContainerId, pod: &PodSandboxId) {
        self.lock()
            .containers
            .insert(id.as_str().to_owned(), (id.clone(), pod.clone()));
    }

    /// Forgets a container.
    pub(crate) fn remove_container(&self, id: &ContainerId) {
        self.lock().containers.remove(id.as_str());
    }

    /// The pod with that id or beginning of one; `None` when there is none.
    ///
    /// # Errors
    /// When several begin so.
    pub(crate) fn pod(&self, id: &IdPrefix) -> Result<Option<PodHandle>, EngineError> {
        Ok(unique(&self.lock().pods, id, "pod sandbox")?.cloned())
    }

    /// The container with that id or beginning of one, and its pod.
    ///
    /// # Errors
    /// When several begin so.
    pub(crate) fn container(&self, id: &IdPrefix) -> Result<Option<(ContainerId, PodHandle)>, EngineError> {
        let maps = self.lock();
        let Some((container, pod)) = unique(&maps.containers, id, "container")? else {
            return Ok(None);
        };
        Ok(maps
            .pods
            .get(pod.as_str())
            .map(|handle| (container.clone(), handle.clone())))
    }

    /// All pods whose id begins so.
    pub(crate) fn pods(&self, id: &IdPrefix) -> Vec<PodHandle> {
        let maps = self.lock();
        beginning(&maps.pods, &id.0)
            .map(|(_, handle)| handle.clone())
            .collect()
    }
}

fn beginning<'a, V>(
    map: &'a BTreeMap<String, V>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a V)> {
    map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}

fn unique<'a, V>(
    map: &'a BTreeMap<String, V>,
    id: &'a IdPrefix,
    what: &'static str,
) -> Result<Option<&'a V>, EngineError> {
    if id.0.is_empty() {
        return Ok(None);
    }
    let mut matches = beginning(map, &id.0);
    let first = matches.next().map(|(_, value)| value);
    if matches.next().is_some() {
        let message = format!("{what} id {:?} is ambiguous: give more of its digits", id.0);
        return Err(EngineError::new(Kind::InvalidArgument, "find", message));
    }
    Ok(first)
}
