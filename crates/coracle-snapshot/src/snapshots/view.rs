//! Read-only views of an image's merged tree, mounted nowhere.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_sys::namespaces::{Namespace, Namespaces, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_change, open_tree, unmount,
};
use rustix::process::chdir;

use super::Snapshots;
use crate::error::Error;
use crate::id::LayerId;
use crate::store::open_directory;

/// A string given to fsconfig(2) ends here.
const FSCONFIG_STRING: usize = 255;

/// Marks that no layer of ours has; a second lock on a door that the extractor keeps shut.
const MARKS: [(&str, &str); 2] = [("redirect_dir", "nofollow"), ("metacopy", "off")];

/// What the kernel refused, and where.
type Refused = (Errno, &'static str);

/// Ways to tell the kernel of layers, the newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `lowerdir+` a layer (newer than Linux 6.5).
    Each,
    /// One `lowerdir` of at most 255 bytes: some fourteen layers by descriptor.
    Joined,
    /// mount(2) in a mount namespace of its own, whose page takes as many layers as overlay does (500).
    Page,
}

impl Snapshots {
    /// The merged tree of layers, bottom first; see [`Snapshotter::view`](crate::Snapshotter::view). A
    /// single layer without whiteouts is its plain directory, which must not be written to.
    ///
    /// # Errors
    /// [`Error::LayerMissing`], and [`Error::View`] when overlay refuses.
    pub fn view(&self, layers: &[LayerId]) -> Result<OwnedFd, Error> {
        let lowers = self.lowers(layers)?;
        match &lowers[..] {
            [only] => open_directory(CWD, only).map_err(Error::state("open", only)),
            _ => self.mount_by_first(&[Method::Each, Method::Joined, Method::Page], &lowers),
        }
    }

    /// The directories of layers, bottom first, as overlay takes them; see
    /// [`Snapshotter::lowers`](crate::Snapshotter::lowers).
    ///
    /// # Errors
    /// [`Error::LayerMissing`].
    pub fn lowers(&self, layers: &[LayerId]) -> Result<Vec<PathBuf>, Error> {
        let stack = self.store.stack(layers)?;
        let has_whiteouts = |layer: &LayerId| {
            self.store
                .index()
                .layers
                .get(layer)
                .is_some_and(|published| published.has_whiteouts)
        };
        let mut lowers = self.store.lower_paths(&stack)?;
        match &stack[..] {
            [] => lowers.push(self.store.empty_path()),
            // Overlay without an upper directory wants two lower ones.
            [only] if has_whiteouts(only) => lowers.push(self.store.empty_path()),
            _ => {}
        }
        Ok(lowers)
    }

    /// By the first of the methods that this kernel knows.
    pub(super) fn mount_by_first(&self, methods: &[Method], lowers: &[PathBuf]) -> Result<OwnedFd, Error> {
        let mut last = (Errno::INVAL, "no method");
        for method in methods {
            let mounted = match method {
                Method::Each => by_each(lowers),
                Method::Joined => by_joined(lowers),
                Method::Page => by_page(lowers, &self.store.empty_path()),
            };
            match mounted {
                Ok(view) => return Ok(view),
                // An unknown option is refused at once since Linux 6.5; older kernels take any, and refuse
                // all of them when the superblock is made.
                Err(refused @ (Errno::INVAL, _)) => last = refused,
                Err(refused) => return Err(failed(lowers.len(), refused)),
            }
        }
        Err(failed(lowers.len(), last))
    }
}

fn failed(count: usize, (errno, step): Refused) -> Error {
    Error::View {
        count,
        step,
        source: errno.into(),
    }
}

fn at(step: &'static str) -> impl Fn(Errno) -> Refused {
    move |errno| (errno, step)
}

/// By the mount API: nothing is ever visible in a mount table.
fn by_each(lowers: &[PathBuf]) -> Result<OwnedFd, Refused> {
    let context = context()?;
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
    finish(&context)
}

/// As by each, with all layers in one string.
fn by_joined(lowers: &[PathBuf]) -> Result<OwnedFd, Refused> {
    let open = open_all(lowers)?;
    let value = joined(&open, "/proc/self/fd/");
    if value.len() > FSCONFIG_STRING {
        return Err((Errno::INVAL, "lowerdir of 255 bytes"));
    }
    let context = context()?;
    fsconfig_set_string(&context, "lowerdir", value).map_err(at("lowerdir"))?;
    finish(&context)
}

fn context() -> Result<OwnedFd, Refused> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen overlay"))?;
    fsconfig_set_string(&context, "source", "coracle").map_err(at("source"))?;
    Ok(context)
}

fn finish(context: &OwnedFd) -> Result<OwnedFd, Refused> {
    for (key, value) in MARKS {
        match fsconfig_set_string(context, key, value) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err((errno, "redirect_dir, metacopy")),
        }
    }
    fsconfig_set_flag(context, "ro").map_err(at("ro"))?;
    fsconfig_create(context).map_err(at("create"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

fn open_all(lowers: &[PathBuf]) -> Result<Vec<OwnedFd>, Refused> {
    lowers
        .iter()
        .map(|lower| open_directory(CWD, lower).map_err(at("open a layer")))
        .collect()
}

fn joined(open: &[OwnedFd], before: &str) -> String {
    let names: Vec<String> = open
        .iter()
        .map(|layer| format!("{before}{}", layer.as_raw_fd()))
        .collect();
    names.join(":")
}

/// By mount(2), which mounts upon a directory only: a thread in a mount namespace of its own does, where
/// nobody sees it, and gives a detached clone away. `target` is any directory.
fn by_page(lowers: &[PathBuf], target: &Path) -> Result<OwnedFd, Refused> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("view".into())
            .spawn_scoped(scope, || in_own_namespace(lowers, target))
            .map_err(|_| (Errno::AGAIN, "start a thread"))?
            .join()
            .unwrap_or(Err((Errno::IO, "a thread that panicked")))
    })
}

/// The thread must end after this: its mount namespace and its working directory are no longer the
/// process's.
fn in_own_namespace(lowers: &[PathBuf], target: &Path) -> Result<OwnedFd, Refused> {
    unshare(Namespaces::NONE.with(Namespace::Mount)).map_err(at("unshare"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(at("private propagation"))?;
    // Opened here, because overlay takes directories on mounts of its caller's namespace only; and named
    // from here by their numbers alone, so that one page holds them all.
    let open = open_all(lowers)?;
    chdir("/proc/self/fd").map_err(at("chdir"))?;
    let mut options = format!("lowerdir={}", joined(&open, ""));
    for (key, value) in MARKS {
        options.push_str(&format!(",{key}={value}"));
    }
    let options = CString::new(options).map_err(|_| (Errno::INVAL, "options"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount("coracle", target, "overlay", flags, Some(options.as_c_str())).map_err(at("mount"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, target, flags).map_err(at("open_tree"));
    unmount(target, UnmountFlags::DETACH).map_err(at("unmount"))?;
    tree
}
