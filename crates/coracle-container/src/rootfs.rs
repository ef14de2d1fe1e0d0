//! The root file system of a container as a detached mount.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_sys::mount_attr::{Change, Depth, Flag, Propagation};
use coracle_types::security::IdMapping;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, fstat, mkdir, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::chdir;

use crate::error::Error;
use crate::filesystem::{
    ANY_DIRECTORY, FsContext, LONGEST_VALUE, Submounts, attach, clone_tree, made_by_child,
};
use crate::step::{At as _, Failure, Step};

/// To be mounted on, cloned, or named.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

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
        /// Whether the layers appear by the mapping of the container's user namespace (Linux 5.19). What lies
        /// in `upper` has ids of the node then.
        mapped: bool,
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

/// The detached mount of a root file system; `user_namespace` gives the container's where its mapping is
/// asked for.
///
/// # Errors
/// The kernel's own words where it gives some.
pub(crate) fn make(
    source: &RootfsSource,
    user_namespace: impl FnOnce() -> Result<OwnedFd, Error>,
) -> Result<OwnedFd, Error> {
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
        RootfsSource::View { lowers } => view(lowers, None),
        RootfsSource::Overlay {
            lowers,
            upper,
            work,
            mapped,
        } => {
            let mapped_by = if *mapped { Some(user_namespace()?) } else { None };
            let mut parts = Parts {
                mapped: mapped_by.is_some(),
                ..Parts::default()
            };
            for lower in lowers {
                parts.add_lower(lower, mapped_by.as_ref().map(AsFd::as_fd))?;
            }
            parts.set_upper(upper, work)?;
            overlay(&mut parts)
        }
    }
}

/// Gives a writable directory to whom its owner inside is outside. It was made with the owner that the image
/// has; one that was given away already is left alone.
///
/// # Errors
/// When it is not there or cannot be given away.
pub(crate) fn give_away(upper: &Path, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), Error> {
    let at = || format!("owner of {}", upper.display());
    let directory = directory(upper)?;
    let stat = fstat(&directory).at(Step::MakeRootfs, at)?;
    let user = outside(uids, stat.st_uid).map(Uid::from_raw);
    let group = outside(gids, stat.st_gid).map(Gid::from_raw);
    chownat(&directory, c"", user, group, AtFlags::EMPTY_PATH).at(Step::MakeRootfs, at)?;
    Ok(())
}

fn outside(ranges: &[IdMapping], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let at = id.checked_sub(range.container_id)?;
        (at < range.length).then_some(range.host_id.saturating_add(at))
    })
}

/// A detached read-only mount of layers, the uppermost first.
///
/// # Errors
/// As [`create`](crate::create) for its root file system.
pub(crate) fn view(lowers: &[PathBuf], mapped_by: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let mount = if let [only] = lowers {
        let directory = directory(only)?;
        clone(&directory, only, mapped_by)?
    } else {
        let mut parts = Parts {
            mapped: mapped_by.is_some(),
            ..Parts::default()
        };
        for lower in lowers {
            parts.add_lower(lower, mapped_by)?;
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

    /// Never id-mapped: overlay makes its work directory with the rights of who mounts, who has no id in there.
    fn set_upper(&mut self, upper: &Path, work: &Path) -> Result<(), Error> {
        let names = (utf8(upper)?, utf8(work)?);
        if names.0.len().max(names.1.len()) <= LONGEST_VALUE {
            self.upper = Some((names.0.into(), names.1.into()));
            return Ok(());
        }
        // Both must be reached through one mount, so it is the directory of both that is opened.
        let parent = upper.parent().filter(|parent| work.parent() == Some(parent));
        let parent = parent.ok_or_else(|| {
            Error::spec(
                "root",
                names.1,
                "the work directory must lie beside the upper directory",
            )
        })?;
        let held = self.hold(parent, None)?;
        let below = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{}/{name}", self.by_descriptor(held))
        };
        self.upper = Some((below(upper), below(work)));
        Ok(())
    }

    fn hold(&mut self, path: &Path, map: Option<BorrowedFd<'_>>) -> Result<usize, Error> {
        let mut directory = directory(path)?;
        if map.is_some() {
            directory = clone(&directory, path, map)?;
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
    // Layers that are images are file systems of their own: files would have many device numbers, and
    // programs that stay on one file system would pass them over.
    let _ = context.try_set("xino", "auto");
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

/// By a child in a mount namespace of its own.
fn overlay_by_page(parts: &Parts) -> Result<OwnedFd, Failure> {
    made_by_child(|| {
        if parts.mapped {
            mount_mapped_by_page(parts)
        } else {
            mount_by_page(parts)
        }
    })
    .at(Step::MakeRootfs, || "overlay by mount(2)")
}

/// In that child, whose mounts are copies: what the parent opened is not among them, so that unmapped
/// layers are opened again.
fn mount_by_page(parts: &Parts) -> Result<OwnedFd, Errno> {
    let mut opened = Vec::new();
    let mut names = Vec::new();
    for part in &parts.lowers {
        let layer = open(part.name.as_str(), PLACE, Mode::empty())?;
        names.push(format!("/proc/self/fd/{}", layer.as_raw_fd()));
        opened.push(layer);
    }
    mount_overlay(parts, &names, ANY_DIRECTORY)
}

/// Before Linux 6.15 overlay takes layers of attached mounts only: the id-mapped clones are attached, side by
/// side and named by their numbers, where nobody sees them. The overlay has clones of its own of them.
fn mount_mapped_by_page(parts: &Parts) -> Result<OwnedFd, Errno> {
    mount("tmpfs", ANY_DIRECTORY, "tmpfs", MountFlags::empty(), None)?;
    chdir(ANY_DIRECTORY)?;
    let merged = "merged";
    mkdir(merged, Mode::RWXU)?;
    let mut names = Vec::new();
    for held in parts.lowers.iter().filter_map(|part| part.directory) {
        let name = held.to_string();
        mkdir(name.as_str(), Mode::RWXU)?;
        let point = open(name.as_str(), PLACE, Mode::empty())?;
        attach(parts.held[held].as_fd(), point.as_fd())?;
        names.push(name);
    }
    mount_overlay(parts, &names, merged)
}

/// By mount(2), whose options are one page; gives a clone.
fn mount_overlay(parts: &Parts, lowers: &[String], point: &str) -> Result<OwnedFd, Errno> {
    let mut options = format!("index=off,xino=auto,lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = &parts.upper {
        if [upper, work].iter().any(|name| name.contains([',', ':', '\\'])) {
            return Err(Errno::INVAL);
        }
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::empty();
    mount("overlay", point, "overlay", flags, Some(options.as_c_str()))?;
    clone_tree(open(point, PLACE, Mode::empty())?.as_fd(), Submounts::Without)
}

/// A detached mount of a directory, with its ids mapped where a user namespace is given.
fn clone(directory: &OwnedFd, path: &Path, map: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let clone = clone_tree(directory.as_fd(), Submounts::Without)
        .at(Step::MakeRootfs, || format!("clone {}", path.display()))?;
    if let Some(map) = map {
        Change::new()
            .mapped(map)
            .apply(clone.as_fd(), Depth::This)
            .at(Step::MakeRootfs, || {
                format!(
                    "map the ids of {}: its file system must allow id-mapped mounts",
                    path.display()
                )
            })?;
    }
    Ok(clone)
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

    use std::os::fd::{AsFd as _, BorrowedFd};

    use super::{Error, Method, OwnedFd, Parts, Path, PathBuf, Step, overlay_by};
    use crate::step::At as _;

    /// Mounts by the way `index` (0 the newest), with ids mapped by a user namespace if one is given.
    pub fn overlay(
        index: usize,
        lowers: &[PathBuf],
        (upper, work): (&Path, &Path),
        map: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd, Error> {
        let mut parts = Parts {
            mapped: map.is_some(),
            ..Parts::default()
        };
        for lower in lowers {
            parts.add_lower(lower, map)?;
        }
        parts.set_upper(upper, work)?;
        let method = [Method::Each, Method::Joined, Method::Page][index.min(2)];
        overlay_by(&mut parts, method)?.map_err(Error::from)
    }

    /// The part at `path` of layers, the uppermost first, by the way that kernels before 6.15 need.
    pub fn part(lowers: &[PathBuf], path: &str) -> Result<OwnedFd, Error> {
        let whole = super::view(lowers, None)?;
        let part = crate::mounts::part_of_attached(whole.as_fd(), path);
        Ok(part.at(Step::MakeMounts, || path.to_owned())?)
    }
}
