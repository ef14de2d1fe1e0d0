//! The root file system of a container as a detached mount.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_sys::fork::{self, CloneRequest, Forked};
use coracle_sys::mount_attr::{Change, Depth, Flag, Propagation};
use coracle_sys::namespaces::{Namespace, Namespaces};
use coracle_sys::seqpacket;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::error::Error;
use crate::filesystem::{FsContext, LONGEST_VALUE, Submounts, clone_tree};
use crate::step::{At as _, Failure, Step};

/// What a container's root is made of.
#[derive(Debug)]
pub enum RootfsSource {
    /// A directory that is ready, bound with all that is mounted below it.
    Path(PathBuf),
    /// Read-only layers and a writable directory.
    Overlay {
        /// Layers, the uppermost first.
        lowers: Vec<PathBuf>,
        /// Takes what is written.
        upper: PathBuf,
        /// Work directory of the kernel, beside `upper`.
        work: PathBuf,
        /// A user namespace by whose mapping the layers and `upper` appear (Linux 5.19).
        mapped_by: Option<OwnedFd>,
    },
    /// Read-only layers.
    View {
        /// Layers, the uppermost first.
        lowers: Vec<PathBuf>,
    },
}

/// Names and descriptors of what an overlay is made of.
#[derive(Debug, Default)]
struct Parts {
    lowers: Vec<Part>,
    upper: Option<(String, String)>,
    /// Whether what is held are id-mapped clones.
    mapped: bool,
    /// Kept open until the superblock holds what it needs.
    held: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Part {
    name: String,
    /// Position in `held` of the directory or its mapped clone.
    directory: Option<usize>,
}

/// Ways to tell the kernel of layers, the newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// `lowerdir+` a layer (newer than Linux 6.5).
    Each,
    /// One `lowerdir` of at most 255 bytes: fourteen layers by descriptor.
    Joined,
    /// mount(2) in a mount namespace of its own, whose page takes 200.
    Page,
}

/// The detached mount of a root file system.
///
/// # Errors
/// The kernel's own words where it gives some.
pub(crate) fn make(source: &RootfsSource) -> Result<OwnedFd, Error> {
    match source {
        RootfsSource::Path(path) => {
            let directory = directory(path)?;
            let tree = clone_tree(directory.as_fd(), Submounts::With)
                .at(Step::MakeRootfs, || format!("bind {}", path.display()))?;
            Change::new()
                .propagation(Propagation::Private)
                .apply(tree.as_fd(), Depth::Tree)
                .at(Step::MakeRootfs, || "private propagation")?;
            Ok(tree)
        }
        RootfsSource::View { lowers } => view(lowers),
        RootfsSource::Overlay {
            lowers,
            upper,
            work,
            mapped_by,
        } => {
            let mut parts = Parts {
                mapped: mapped_by.is_some(),
                ..Parts::default()
            };
            for lower in lowers {
                parts.add_lower(lower, mapped_by.as_ref().map(AsFd::as_fd))?;
            }
            parts.set_upper(upper, work, mapped_by.as_ref().map(AsFd::as_fd))?;
            overlay(&mut parts)
        }
    }
}

/// A detached read-only mount of layers, the uppermost first.
///
/// # Errors
/// As [`create`](crate::create) for its root file system.
pub fn view(lowers: &[PathBuf]) -> Result<OwnedFd, Error> {
    let mount = if let [only] = lowers {
        let directory = directory(only)?;
        clone_tree(directory.as_fd(), Submounts::Without)
            .at(Step::MakeRootfs, || format!("bind {}", only.display()))?
    } else {
        let mut parts = Parts::default();
        for lower in lowers {
            parts.add_lower(lower, None)?;
        }
        overlay(&mut parts)?
    };
    Change::new()
        .set(Flag::ReadOnly)
        .propagation(Propagation::Private)
        .apply(mount.as_fd(), Depth::This)
        .at(Step::MakeRootfs, || "read-only")?;
    Ok(mount)
}

impl Parts {
    fn add_lower(&mut self, path: &Path, map: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let name = utf8(path)?;
        let directory = if map.is_some() || name.len() > LONGEST_VALUE {
            Some(self.hold(path, map)?)
        } else {
            None
        };
        self.lowers.push(Part {
            name: name.into(),
            directory,
        });
        Ok(())
    }

    fn set_upper(&mut self, upper: &Path, work: &Path, map: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let names = (utf8(upper)?, utf8(work)?);
        if map.is_none() && names.0.len().max(names.1.len()) <= LONGEST_VALUE {
            self.upper = Some((names.0.into(), names.1.into()));
            return Ok(());
        }
        // Both must be reached through one mount, so it is the directory of both that is opened or mapped.
        let parent = upper.parent().filter(|parent| work.parent() == Some(parent));
        let parent = parent.ok_or_else(|| {
            Error::spec(
                "root",
                names.1,
                "the work directory must lie beside the upper directory",
            )
        })?;
        let held = self.hold(parent, map)?;
        let below = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{}/{name}", self.by_descriptor(held))
        };
        self.upper = Some((below(upper), below(work)));
        Ok(())
    }

    fn hold(&mut self, path: &Path, map: Option<BorrowedFd<'_>>) -> Result<usize, Error> {
        let mut directory = directory(path)?;
        if let Some(map) = map {
            let clone = clone_tree(directory.as_fd(), Submounts::Without)
                .at(Step::MakeRootfs, || format!("clone {}", path.display()))?;
            Change::new()
                .mapped(map)
                .apply(clone.as_fd(), Depth::This)
                .at(Step::MakeRootfs, || format!("map ids of {}", path.display()))?;
            directory = clone;
        }
        self.held.push(directory);
        Ok(self.held.len() - 1)
    }

    fn by_descriptor(&self, held: usize) -> String {
        format!("/proc/self/fd/{}", self.held[held].as_raw_fd())
    }
}

fn overlay(parts: &mut Parts) -> Result<OwnedFd, Error> {
    let mut last = None;
    for method in [Method::Each, Method::Joined, Method::Page] {
        match overlay_by(parts, method)? {
            Ok(mount) => return Ok(mount),
            Err(failure) if failure.errno == Errno::INVAL => last = Some(failure),
            Err(failure) => return Err(failure.into()),
        }
    }
    Err(last.map_or_else(|| Error::spec("root", "", "no way to mount it"), Error::from))
}

/// The outer error is final, the inner one may be this method's.
fn overlay_by(parts: &mut Parts, method: Method) -> Result<Result<OwnedFd, Failure>, Error> {
    if method != Method::Each {
        for index in 0..parts.lowers.len() {
            if parts.lowers[index].directory.is_none() {
                let path = PathBuf::from(&parts.lowers[index].name);
                let held = parts.hold(&path, None)?;
                parts.lowers[index].directory = Some(held);
            }
        }
    }
    Ok(match method {
        Method::Each | Method::Joined => overlay_by_context(parts, method),
        Method::Page => overlay_by_page(parts),
    })
}

fn overlay_by_context(parts: &Parts, method: Method) -> Result<OwnedFd, Failure> {
    let context = FsContext::open("overlay", Step::MakeRootfs)?;
    let _ = context.try_set("source", "overlay");
    if method == Method::Joined {
        context.set("lowerdir", &joined(parts))?;
    } else {
        for part in &parts.lowers {
            let added = match part.directory {
                None => context.try_set("lowerdir+", &part.name),
                // Linux 6.13 takes the descriptor, older ones its name.
                Some(held) => context
                    .try_set_fd("lowerdir+", parts.held[held].as_fd())
                    .or_else(|_| context.try_set("lowerdir+", &parts.by_descriptor(held))),
            };
            added.map_err(|errno| context.failure(errno, &format!("lowerdir+={}", part.name)))?;
        }
    }
    if let Some((upper, work)) = &parts.upper {
        context.set("upperdir", upper)?;
        context.set("workdir", work)?;
    }
    // An index would bind the upper directory to this very set of layers.
    let _ = context.try_set("index", "off");
    context.mount()
}

fn joined(parts: &Parts) -> String {
    let names: Vec<String> = parts
        .lowers
        .iter()
        .filter_map(|part| Some(parts.by_descriptor(part.directory?)))
        .collect();
    names.join(":")
}

/// A child in a mount namespace of its own makes the mount, detaches a clone and sends it over.
fn overlay_by_page(parts: &Parts) -> Result<OwnedFd, Failure> {
    let step = Step::MakeRootfs;
    let (ours, theirs) = seqpacket::pair().at(step, || "socketpair")?;
    let request = CloneRequest {
        namespaces: Namespaces::NONE.with(Namespace::Mount),
        ..CloneRequest::default()
    };
    match fork::clone3(&request) {
        Err(error) => Err(Failure::new(
            step,
            error.errno().unwrap_or(Errno::BUSY),
            error.to_string(),
        )),
        Ok(Forked::InChild) => fork::run_child(|| {
            let sent = match mount_by_page(parts) {
                Ok(tree) => seqpacket::send(theirs.as_fd(), b"0", &[tree.as_fd()]),
                Err(errno) => seqpacket::send(theirs.as_fd(), &errno.raw_os_error().to_ne_bytes(), &[]),
            };
            i32::from(sent.is_err())
        }),
        Ok(Forked::Parent(child)) => {
            drop(theirs);
            let mut answer = [0; 8];
            let heard = seqpacket::receive(ours.as_fd(), &mut answer);
            let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            let (_, mut fds) = heard.at(step, || "overlay by mount(2)")?;
            fds.pop().ok_or_else(|| {
                let [a, b, c, d, ..] = answer;
                let errno = Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]).clamp(1, 4095));
                Failure::new(step, errno, "overlay by mount(2)")
            })
        }
    }
}

/// In that child, whose mounts are copies: what the parent opened is not among them, so that unmapped
/// layers are opened again.
fn mount_by_page(parts: &Parts) -> Result<OwnedFd, Errno> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut opened = Vec::new();
    let mut names = Vec::new();
    for part in &parts.lowers {
        match part.directory.filter(|_| parts.mapped) {
            Some(held) => names.push(parts.by_descriptor(held)),
            None => {
                let layer = open(part.name.as_str(), flags, Mode::empty())?;
                names.push(format!("/proc/self/fd/{}", layer.as_raw_fd()));
                opened.push(layer);
            }
        }
    }
    let mut options = format!("index=off,lowerdir={}", names.join(":"));
    if let Some((upper, work)) = &parts.upper {
        if [upper, work].iter().any(|name| name.contains([',', ':', '\\'])) {
            return Err(Errno::INVAL);
        }
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    mount(
        "overlay",
        "/proc/sys",
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    clone_tree(
        open("/proc/sys", flags, Mode::empty())?.as_fd(),
        Submounts::Without,
    )
}

fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty()).at(Step::MakeRootfs, || format!("open {}", path.display()))?)
}

fn utf8(path: &Path) -> Result<&str, Error> {
    path.to_str()
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| Error::spec("root", path.to_string_lossy(), "give an absolute path in UTF-8"))
}

#[doc(hidden)]
pub mod probe {
    //! Each way to mount layers by itself, for tests on kernels that would never use the older ones.

    use super::{Error, Method, OwnedFd, Parts, Path, PathBuf, overlay_by};

    /// Mounts by the way `index` (0 the newest).
    pub fn overlay(index: usize, lowers: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Error> {
        let mut parts = Parts::default();
        for lower in lowers {
            parts.add_lower(lower, None)?;
        }
        parts.set_upper(upper, work, None)?;
        let method = [Method::Each, Method::Joined, Method::Page][index.min(2)];
        overlay_by(&mut parts, method)?.map_err(Error::from)
    }
}
