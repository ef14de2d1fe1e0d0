//! Images mounted where overlay finds them: one mount a layer, made when the layer is first used.
//!
//! All containers of a layer share its mount's superblock and so its pages; two mounts of one image would
//! read it twice. The mount is at the layer's own directory, since overlay takes lower directories by path,
//! other runtimes' shims know nothing else, and Linux before 6.15 refuses detached mounts there. It stays
//! until the layer is removed; a daemon that starts again finds it.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use coracle_sys::steps::entering;
use rustix::fs::{Mode, OFlags, openat};

use crate::erofs;
use crate::error::Error;
use crate::id::LayerId;
use crate::snapshotter::Layers;
use crate::store::{Form, IMAGE, Store, TREE, open_directory};

impl Layers {
    /// What new layers become below a state directory that has `staging`.
    pub(crate) fn form(self, staging: &OwnedFd) -> Result<Form, Error> {
        match (self, self != Self::Directories) {
            (_, false) => Ok(Form::Trees),
            (wanted, true) => match erofs::probe(staging) {
                Ok(()) => Ok(Form::Images),
                Err(reason) if wanted == Self::Images => Err(Error::NoImages { reason }),
                Err(reason) => {
                    tracing::info!(reason, "layers are unpacked to directories");
                    Ok(Form::Trees)
                }
            },
        }
    }
}

impl Store {
    fn mounted(&self) -> MutexGuard<'_, HashSet<LayerId>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paths of layers as overlay takes them, their images mounted.
    pub(crate) fn lower_paths(&self, stack: &[LayerId]) -> Result<Vec<PathBuf>, Error> {
        stack
            .iter()
            .map(|id| {
                self.ensure_mounted(id)?;
                Ok(self.layer_path(id))
            })
            .collect()
    }

    /// Mounts a layer's image unless it is mounted, or no image.
    pub(crate) fn ensure_mounted(&self, id: &LayerId) -> Result<(), Error> {
        let is_image = |id: &LayerId| self.index().layers.get(id).is_some_and(|layer| layer.is_image);
        if !is_image(id) {
            return Ok(());
        }
        let mut mounted = self.mounted();
        if mounted.contains(id) {
            return Ok(());
        }
        let name = id.directory();
        let failed = |step| move |errno| Error::state(step, self.layer_path(id))(errno);
        let layer = open_directory(&self.layers, &name).map_err(failed("open"))?;
        let tree = open_directory(&layer, TREE).map_err(failed("open"))?;
        if !erofs::is_mounted(&tree).map_err(failed("look at"))? {
            entering("image_layer.mount");
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let image = openat(&layer, IMAGE, flags, Mode::empty()).map_err(failed("open the image of"))?;
            let mount = erofs::detached(image.as_fd()).map_err(|(errno, step)| failed(step)(errno))?;
            erofs::attach(&mount, &tree).map_err(failed("attach the image of"))?;
        }
        mounted.insert(id.clone());
        Ok(())
    }

    /// Takes in what an earlier daemon mounted.
    pub(crate) fn find_mount(&self, id: &LayerId) -> Result<(), Error> {
        let failed = |errno| Error::state("look at", self.layer_path(id))(errno);
        let name = format!("{}/{TREE}", id.directory());
        let tree = open_directory(&self.layers, name).map_err(failed)?;
        if erofs::is_mounted(&tree).map_err(failed)? {
            self.mounted().insert(id.clone());
        }
        Ok(())
    }

    /// Takes a layer's mount away.
    pub(crate) fn unmount(&self, id: &LayerId, is_image: bool) -> Result<(), Error> {
        if !is_image {
            return Ok(());
        }
        let mut mounted = self.mounted();
        entering("image_layer.unmount");
        // An earlier daemon may have left it.
        erofs::unmount(&self.layer_path(id)).map_err(Error::state("unmount", self.layer_path(id)))?;
        mounted.remove(id);
        Ok(())
    }

    /// Takes the mounts away that no container's root lies on.
    pub(crate) fn unmount_unused(&self) {
        let below: HashSet<LayerId> = self.index().users().map(|(_, id)| id.clone()).collect();
        let unused: Vec<LayerId> = self.mounted().difference(&below).cloned().collect();
        for id in unused {
            if let Err(error) = self.unmount(&id, true) {
                tracing::warn!(layer = %id, %error, "a layer stays mounted");
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.unmount_unused();
    }
}
