//! A layer or a writable layer on its way: made in staging, published by one rename.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use coracle_sys::steps::entering;
use coracle_types::{ContainerId, Digest};
use rustix::fs::{
    Mode, OFlags, RenameFlags, fchmod, fdatasync, fsync, mkdirat, openat, renameat, renameat_with,
};
use rustix::io::Errno;

use super::{IMAGE, Layer, Published, STAGING, Store, TREE, open_directory};
use crate::erofs;
use crate::error::Error;
use crate::id::{LayerId, random_name};
use crate::record::{LayerRecord, Made, RECORD};
use crate::walk;

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

    /// Makes the file of an image, and the directory that it will be mounted on.
    pub(crate) fn make_image(&self) -> Result<OwnedFd, Error> {
        self.make_directory(TREE, 0o700)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, IMAGE, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::state("make", self.path().join(IMAGE)))
    }

    /// The root of what was made here, which is not published yet.
    pub(crate) fn open_tree(&self, made: &Made) -> Result<OwnedFd, Error> {
        if made.image.is_none() {
            return open_directory(&self.directory, TREE)
                .map_err(Error::state("open", self.path().join(TREE)));
        }
        let path = self.path().join(IMAGE);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat(&self.directory, IMAGE, flags, Mode::empty()).map_err(Error::state("open", &path))?;
        let mount =
            erofs::detached(file.as_fd()).map_err(|(errno, step)| Error::state(step, &path)(errno))?;
        open_directory(&mount, ".").map_err(Error::state("open", path))
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
        made: Made,
    ) -> Result<Layer, Error> {
        let mut record = LayerRecord::new(id, made);
        let path = self.store.layer_path(&record.id);
        if record.image.is_none() {
            entering("layer.fingerprint");
            let tree = walk::fingerprint(self.directory.as_fd(), OsStr::new(TREE));
            record.tree = Some(tree.map_err(|error| Error::State {
                action: "look at all of",
                path: path.clone(),
                source: error.into(),
            })?);
        }
        let id = &record.id;
        entering("layer.record");
        record.write(&self.directory).map_err(|source| Error::State {
            action: "write the record of",
            path: path.clone(),
            source,
        })?;
        entering("layer.flush");
        self.write_out(&record)
            .map_err(Error::state("write out", &path))?;

        let store = Arc::clone(&self.store);
        let publishing = store.publishing();
        if let Some(there) = store.hold(id, chain_id) {
            return Ok(there);
        }
        let name = id.directory();
        entering("layer.publish");
        renameat_with(
            &store.staging,
            &self.name,
            &store.layers,
            &name,
            RenameFlags::NOREPLACE,
        )
        .map_err(Error::state("publish", &path))?;
        entering("layer.sync");
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

    /// Returns when all in here is on the disk.
    fn write_out(&self, record: &LayerRecord) -> rustix::io::Result<()> {
        if record.image.is_none() {
            return self.store.flusher.flush(&self.directory);
        }
        for (name, step) in [
            (IMAGE, "image_layer.flush_image"),
            (RECORD, "image_layer.flush_record"),
        ] {
            entering(step);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fdatasync(openat(&self.directory, name, flags, Mode::empty())?)?;
        }
        entering("image_layer.flush_directory");
        fsync(&self.directory)
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
