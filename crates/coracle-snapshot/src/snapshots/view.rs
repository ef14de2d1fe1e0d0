//! Read-only views of an image's merged tree, mounted nowhere.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree, unmount,
};

use super::Snapshots;
use crate::error::Error;
use crate::id::LayerId;
use crate::store::{Staging, Store, open_directory};

/// A string given to fsconfig(2) ends here.
const FSCONFIG_STRING: usize = 255;

impl Snapshots {
    /// The merged tree of layers, bottom first; see [`Snapshotter::view`](crate::Snapshotter::view). A
    /// single layer without whiteouts is its plain directory, which must not be written to.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and [`Error::View`] when overlay refuses.
    pub fn view(&self, layers: &[LayerId]) -> Result<OwnedFd, Error> {
        let stack = self.store.stack(layers)?;
        let has_whiteouts = |layer: &LayerId| {
            self.store
                .index()
                .layers
                .get(layer)
                .is_some_and(|published| published.has_whiteouts)
        };
        let mut lowers: Vec<PathBuf> = stack.iter().map(|layer| self.store.layer_path(layer)).collect();
        match &stack[..] {
            [] => {
                let path = self.store.empty_path();
                return open_directory(CWD, &path).map_err(Error::state("open", path));
            }
            [only] if !has_whiteouts(only) => return self.store.open_tree(only),
            // Overlay without an upper directory wants two lower ones.
            [_] => lowers.push(self.store.empty_path()),
            _ => {}
        }
        match mount_by_descriptor(&lowers) {
            // `lowerdir+` is unknown to kernels before 6.7.
            Err((Errno::INVAL, "lowerdir+")) => mount_and_detach(&self.store, &lowers),
            other => other.map_err(|(errno, step)| failed(lowers.len(), step)(errno)),
        }
    }
}

fn failed(count: usize, step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::View {
        count,
        step,
        source: errno.into(),
    }
}

/// By the mount API: nothing is ever visible in a mount table.
fn mount_by_descriptor(lowers: &[PathBuf]) -> Result<OwnedFd, (Errno, &'static str)> {
    let at = |step: &'static str| move |errno| (errno, step);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen overlay"))?;
    fsconfig_set_string(&context, "source", "coracle").map_err(at("source"))?;
    let mut open = Vec::new();
    for lower in lowers {
        let path = if lower.as_os_str().len() > FSCONFIG_STRING {
            let directory = open_directory(CWD, lower).map_err(at("open a layer"))?;
            let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
            open.push(directory);
            PathBuf::from(short)
        } else {
            lower.clone()
        };
        fsconfig_set_string(&context, "lowerdir+", &path).map_err(at("lowerdir+"))?;
    }
    // Marks that no layer of ours has; a second lock on a door that the extractor keeps shut.
    for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off")] {
        match fsconfig_set_string(&context, key, value) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err((errno, "redirect_dir, metacopy")),
        }
    }
    fsconfig_set_flag(&context, "ro").map_err(at("ro"))?;
    fsconfig_create(&context).map_err(at("create"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

/// By mount(2), whose options fill one page: layers are named by descriptors, so that more than two
/// hundred fit. The mount is visible, in a directory of ours, until it is detached.
pub(super) fn mount_and_detach(store: &Arc<Store>, lowers: &[PathBuf]) -> Result<OwnedFd, Error> {
    let failed = |step| failed(lowers.len(), step);
    let mut open = Vec::new();
    let mut options = "redirect_dir=nofollow,metacopy=off,lowerdir=".to_owned();
    for (at, lower) in lowers.iter().enumerate() {
        let directory = open_directory(CWD, lower).map_err(failed("open a layer"))?;
        let separator = if at == 0 { "" } else { ":" };
        options.push_str(&format!("{separator}/proc/self/fd/{}", directory.as_raw_fd()));
        open.push(directory);
    }
    let staging = Staging::make(store)?;
    staging.make_directory("view", 0o700)?;
    let target = staging.path().join("view");
    let options = std::ffi::CString::new(options).expect("digits and letters");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount("coracle", &target, "overlay", flags, Some(options.as_c_str())).map_err(failed("mount"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, &target, flags).map_err(failed("open_tree"));
    unmount(&target, UnmountFlags::DETACH).map_err(failed("unmount"))?;
    tree
}
