//! Layers that are not what was published: found, and set aside so that they are pulled again.
//!
//! What is cheap is looked at whenever a layer's record is read: an image's length, time and first block.
//! Whether a tree was changed takes a look at each of its names, which the owner of the images asks for
//! after the start. A damaged layer on which containers run goes to staging under a name that tells which
//! layer it was, and goes when no container is left that stands on a layer of that id: they keep what they
//! have, and the layer can be published anew beside it.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use coracle_sys::steps::entering;
use coracle_types::ContainerId;
use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::Errno;

use super::directories::names;
use super::{GONE, IMAGE, Index, LAYERS, STAGING, Store, TREE, open_directory};
use crate::erofs;
use crate::error::Error;
use crate::id::{LayerId, random_name};
use crate::walk;

const BROKEN: &str = "broken";
const WORN: &str = "worn";

/// A damaged layer on which containers run.
#[derive(Debug)]
pub(crate) struct Worn {
    /// In staging.
    pub(super) name: String,
    layer: LayerId,
}

/// A name in staging that nobody used before.
pub(super) fn random_as(kind: &str) -> String {
    format!("{kind}-{}", random_name())
}

impl Store {
    /// What is wrong with a published layer, in words: a look at all names of a tree, and at an image's ends.
    pub(crate) fn damage(&self, id: &LayerId) -> Result<Option<String>, Error> {
        let name = id.directory();
        let record = match self.read_layer(&name) {
            Ok(record) => record,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let Some(before) = record.tree else {
            return Ok(None);
        };
        let failed = |errno| Error::state("look at all of", self.layer_path(id))(errno);
        let directory = open_directory(&self.layers, &name).map_err(failed)?;
        match walk::fingerprint(directory.as_fd(), OsStr::new(TREE)) {
            Ok(now) => Ok(now.difference(&before)),
            // What the disk or its file system has lost.
            Err(error)
                if matches!(
                    error.errno,
                    Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::NOENT
                ) =>
            {
                Ok(Some(std::io::Error::from(error).to_string()))
            }
            Err(error) => Err(Error::State {
                action: "look at all of",
                path: self.layer_path(id),
                source: error.into(),
            }),
        }
    }

    /// Takes a damaged layer off the published ones, whoever uses it.
    pub(crate) fn take_off(&self, id: &LayerId) -> Result<(), Error> {
        {
            let _publishing = self.publishing();
            let mut index = self.index();
            let Some(published) = index.layers.get(id).copied() else {
                return Ok(());
            };
            self.unmount(id, published.is_image)?;
            self.set_aside(&mut index, &id.directory())?;
            index.layers.remove(id);
        }
        self.remove_broken()
    }

    /// Moves a layer's directory to staging: to be removed, or to stay for the containers that run on it.
    pub(super) fn set_aside(&self, index: &mut Index, name: &str) -> Result<(), Error> {
        let path = self.root.join(LAYERS).join(name);
        erofs::unmount(&path.join(TREE)).map_err(Error::state("unmount", &path))?;
        let is_it = |(_, layer): &(&ContainerId, &LayerId)| layer.directory() == name;
        let used = index.users().find(is_it).map(|(_, layer)| layer.clone());
        let to = match &used {
            None => random_as(BROKEN),
            Some(_) => random_as(&format!("{WORN}-{name}")),
        };
        entering("layer.set_aside");
        renameat(&self.layers, name, &self.staging, &to).map_err(Error::state("move away", path))?;
        index.worn.extend(used.map(|layer| Worn { name: to, layer }));
        Ok(())
    }

    fn remove_broken(&self) -> Result<(), Error> {
        for name in names(&self.staging, || self.root.join(STAGING))? {
            if name.starts_with(BROKEN) {
                walk::remove(self.staging.as_fd(), OsStr::new(&name)).map_err(|error| Error::State {
                    action: "remove",
                    path: self.root.join(STAGING).join(&name),
                    source: error.into(),
                })?;
            }
        }
        Ok(())
    }

    /// Takes in what an earlier daemon set aside and containers still need; the rest is a leftover.
    pub(super) fn find_worn(&self) -> Result<(), Error> {
        let found = names(&self.staging, || self.root.join(STAGING))?;
        let mut index = self.index();
        for name in found {
            let layer = index.users().map(|(_, layer)| layer).find(|layer| {
                let mut parts = name.split('-');
                parts.next() == Some(WORN) && parts.next() == Some(layer.directory().as_str())
            });
            if let Some(layer) = layer.cloned() {
                index.worn.push(Worn { name, layer });
            }
        }
        Ok(())
    }

    /// What was set aside and no container needs any more.
    pub(super) fn worn_out(index: &mut Index) -> Vec<(LayerId, String)> {
        let worn = std::mem::take(&mut index.worn);
        let (kept, gone) = worn
            .into_iter()
            .partition(|worn| index.users().any(|(_, layer)| *layer == worn.layer));
        index.worn = kept;
        let gone: Vec<Worn> = gone;
        gone.into_iter().map(|worn| (worn.layer, worn.name)).collect()
    }

    /// Frees the bytes of a removed layer's image: a copy of its mount that somebody made with the whole of
    /// the node's mounts, such as a pod that mounts `/` privately, would keep them as long as it lives.
    pub(super) fn empty_image(&self, name: &str) {
        debug_assert!(name.starts_with(GONE) || name.starts_with(WORN));
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = format!("{name}/{IMAGE}");
        match openat(&self.staging, path.as_str(), flags, Mode::empty()) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::debug!(%path, %errno, "an image could not be emptied"),
        }
    }
}
