//! The directories of a layer being unpacked: found by descriptors that cannot leave the layer's root,
//! made where an entry implies them, and remembered for what must wait until the end.
//!
//! A parent is first looked up by one openat2(2) that refuses symbolic links (RESOLVE_BENEATH and
//! RESOLVE_NO_SYMLINKS: the common case). Where that fails, the path is walked a name at a time, links
//! resolved with the layer's root as `/`, as RESOLVE_IN_ROOT does; the kernel's own resolution cannot make
//! what is missing and does not tell where it ended, which the record of implied directories needs.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, XattrFlags, fchmod, fsetxattr, mkdirat, openat2,
    readlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{DEFAULT_ACL, OPAQUE, set_mtime};
use super::{Ahead, Contents, ExtractError, LayerPath, Start, TooManyLinks, Way};
use crate::limits::Limits;
use crate::snapshotter::Usage;
use crate::stat::Stat;
use crate::walk;

/// Archives come directory by directory, so few parents are in use at a time.
const CACHED: usize = 16;
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Whether paths are held inside the layer's root. Only tests that show what the defence is for let go.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    InRoot,
    None,
}

/// An open directory of the layer.
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    /// Where it is, with no symbolic link on the way.
    pub(crate) path: LayerPath,
}

/// What waits until all entries are unpacked.
struct Known {
    mtime: Timespec,
    implied: bool,
    /// An opaque mark, not a whiteout, hides what lower layers have in it.
    emptied: bool,
    whiteouts: bool,
    /// Set last: files made below it would inherit it.
    default_acl: Option<Vec<u8>>,
}

/// All directories of a layer.
pub(crate) struct Directories {
    root: Arc<Directory>,
    cache: VecDeque<(LayerPath, Arc<Directory>)>,
    known: BTreeMap<LayerPath, Known>,
    names: usize,
    most_names: usize,
    #[cfg(test)]
    pub(crate) confinement: Confinement,
    /// What everything but directories takes.
    pub(crate) usage: Usage,
}

impl Directories {
    pub(crate) fn new(root: OwnedFd, limits: &Limits) -> Self {
        let epoch = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let implied = Known {
            mtime: epoch,
            implied: true,
            emptied: false,
            whiteouts: false,
            default_acl: None,
        };
        Self {
            root: Arc::new(Directory {
                fd: root,
                path: LayerPath::root(),
            }),
            cache: VecDeque::with_capacity(CACHED),
            known: BTreeMap::from([(LayerPath::root(), implied)]),
            names: 0,
            most_names: limits.held_names_bytes,
            #[cfg(test)]
            confinement: Confinement::InRoot,
            usage: Usage::default(),
        }
    }

    pub(super) fn root(&self) -> Arc<Directory> {
        Arc::clone(&self.root)
    }

    /// The directory at `path`, made if missing; `mtime` is for those that are made.
    pub(crate) fn ensure(
        &mut self,
        entry: &[u8],
        path: &LayerPath,
        mtime: Timespec,
    ) -> Result<Arc<Directory>, ExtractError> {
        if path.is_root() {
            return Ok(self.root());
        }
        if let Some(at) = self.cache.iter().position(|(cached, _)| cached == path) {
            if at > 0 {
                self.cache.swap(at, 0);
            }
            return Ok(Arc::clone(&self.cache[0].1));
        }
        let directory = match self.existing(path) {
            Ok(fd) => Arc::new(Directory {
                fd,
                path: path.clone(),
            }),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.walk(entry, path, mtime)?,
            Err(errno) => return Err(ExtractError::io(entry, "open its parent directory")(errno)),
        };
        self.remember(path.clone(), Arc::clone(&directory));
        Ok(directory)
    }

    /// Opens a directory without making any and without passing a symbolic link.
    pub(super) fn existing(&self, path: &LayerPath) -> rustix::io::Result<OwnedFd> {
        #[cfg(test)]
        if self.confinement == Confinement::None {
            return rustix::fs::openat(
                &self.root.fd,
                path.as_os_str(),
                OPEN - OFlags::NOFOLLOW,
                Mode::empty(),
            );
        }
        openat2(&self.root.fd, path.as_os_str(), OPEN, Mode::empty(), inside())
    }

    /// Opens a name in a directory if it is a directory itself.
    pub(super) fn child(&self, parent: &Directory, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        #[cfg(test)]
        if self.confinement == Confinement::None {
            return rustix::fs::openat(
                &parent.fd,
                OsStr::from_bytes(name),
                OPEN - OFlags::NOFOLLOW,
                Mode::empty(),
            );
        }
        openat2(&parent.fd, OsStr::from_bytes(name), OPEN, Mode::empty(), inside())
    }

    pub(super) fn remember(&mut self, path: LayerPath, directory: Arc<Directory>) {
        if self.cache.len() == CACHED {
            self.cache.pop_back();
        }
        self.cache.push_front((path, directory));
    }

    /// The slow way to a directory: through symbolic links, and making what is missing.
    fn walk(
        &mut self,
        entry: &[u8],
        path: &LayerPath,
        mtime: Timespec,
    ) -> Result<Arc<Directory>, ExtractError> {
        let mut ahead = Ahead::of(path);
        let mut trail = vec![self.root()];
        while let Some(step) = ahead.next() {
            let here = Arc::clone(trail.last().expect("the root is never taken off"));
            let Way::Into(name) = step else {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            };
            match self.child(&here, &name) {
                Ok(fd) => trail.push(Arc::new(Directory {
                    fd,
                    path: here.path.join(&name),
                })),
                Err(Errno::NOENT) => trail.push(self.imply(entry, &here, &name, mtime)?),
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    let found = Stat::at(&here.fd, OsStr::from_bytes(&name))
                        .map_err(ExtractError::io(entry, "look at its parent directory"))?;
                    if found.kind.is_symlink() {
                        let target = readlinkat(&here.fd, OsStr::from_bytes(&name), Vec::new())
                            .map_err(ExtractError::io(entry, "read a symbolic link of its path"))?;
                        let start = ahead.follow(target.as_bytes()).map_err(|TooManyLinks| {
                            ExtractError::refused(entry, "its path has too many symbolic links")
                        })?;
                        if start == Start::Root {
                            trail.truncate(1);
                        }
                    } else if found.is_whiteout() {
                        self.clear(entry, &here, &name)?;
                        let made = self.imply(entry, &here, &name, mtime)?;
                        set_opaque(entry, &made.fd)?;
                        trail.push(made);
                    } else {
                        return Err(ExtractError::refused(
                            entry,
                            format!("{} is no directory", here.path.join(&name)),
                        ));
                    }
                }
                Err(errno) => return Err(ExtractError::io(entry, "open its parent directory")(errno)),
            }
        }
        Ok(trail.pop().expect("the root is never taken off"))
    }

    /// Makes a directory that no entry has described so far, as others do: root's, mode 755.
    fn imply(
        &mut self,
        entry: &[u8],
        parent: &Directory,
        name: &[u8],
        mtime: Timespec,
    ) -> Result<Arc<Directory>, ExtractError> {
        let failed = "make its parent directory";
        mkdirat(&parent.fd, OsStr::from_bytes(name), Mode::from_raw_mode(0o755))
            .map_err(ExtractError::io(entry, failed))?;
        let fd = self
            .child(parent, name)
            .map_err(ExtractError::io(entry, failed))?;
        // The process's umask and the parent's setgid bit must not matter.
        let stat = Stat::of(&fd).map_err(ExtractError::io(entry, failed))?;
        if stat.gid != 0 {
            rustix::fs::fchown(&fd, None, Some(rustix::fs::Gid::ROOT))
                .map_err(ExtractError::io(entry, failed))?;
        }
        if stat.mode != 0o755 {
            fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(ExtractError::io(entry, failed))?;
        }
        let path = parent.path.join(name);
        let known = Known {
            mtime,
            implied: true,
            emptied: false,
            whiteouts: false,
            default_acl: None,
        };
        self.record(entry, &path, known)?;
        Ok(Arc::new(Directory { fd, path }))
    }

    /// Notes that an entry describes the directory.
    pub(crate) fn described(
        &mut self,
        entry: &[u8],
        path: &LayerPath,
        mtime: Timespec,
        default_acl: Option<Vec<u8>>,
    ) -> Result<(), ExtractError> {
        let whiteouts = self.known.get(path).is_some_and(|known| known.whiteouts);
        self.record(
            entry,
            path,
            Known {
                mtime,
                implied: false,
                emptied: false,
                whiteouts,
                default_acl,
            },
        )
    }

    /// Notes whether an opaque directory is still the lower layers' directory, only empty.
    pub(crate) fn is_emptied(&mut self, path: &LayerPath, emptied: bool) {
        if let Some(known) = self.known.get_mut(path) {
            known.emptied = emptied;
        }
    }

    /// Notes that the directory has a whiteout in it.
    pub(crate) fn has_whiteout(&mut self, path: &LayerPath) {
        if let Some(known) = self.known.get_mut(path) {
            known.whiteouts = true;
        }
    }

    fn record(&mut self, entry: &[u8], path: &LayerPath, known: Known) -> Result<(), ExtractError> {
        if self.known.insert(path.clone(), known).is_none() {
            self.charge(entry, path.bytes().len() + size_of::<(LayerPath, Known)>())?;
        }
        Ok(())
    }

    /// Counts memory that is held until the end.
    pub(super) fn charge(&mut self, entry: &[u8], bytes: usize) -> Result<(), ExtractError> {
        self.names += bytes;
        if self.names > self.most_names {
            let limit = self.most_names as u64;
            return Err(ExtractError::limit(
                entry,
                "bytes of names to be remembered",
                limit,
            ));
        }
        Ok(())
    }

    /// Removes whatever has this name, with all below it; gives what it was.
    pub(super) fn clear(
        &mut self,
        entry: &[u8],
        parent: &Directory,
        name: &[u8],
    ) -> Result<Option<Stat>, ExtractError> {
        let failed = "remove what an earlier entry made";
        let os_name = OsStr::from_bytes(name);
        let found = match Stat::at(&parent.fd, os_name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(ExtractError::io(entry, failed)(errno)),
        };
        let freed = if found.is_directory() {
            self.forget(&parent.path.join(name));
            self.cache.clear();
            // The directories of it were never counted: that is done at the end.
            let (freed, directories) = walk::remove(parent.fd.as_fd(), os_name)
                .map_err(|error| ExtractError::io(entry, failed)(error.errno))?;
            Usage {
                bytes: freed.bytes.saturating_sub(directories.bytes),
                inodes: freed.inodes.saturating_sub(directories.inodes),
            }
        } else {
            if found.kind.is_symlink() {
                self.cache.clear();
            }
            unlinkat(&parent.fd, os_name, AtFlags::empty()).map_err(ExtractError::io(entry, failed))?;
            match found.links {
                1 => Usage {
                    bytes: found.bytes,
                    inodes: 1,
                },
                _ => Usage::default(),
            }
        };
        self.usage.bytes = self.usage.bytes.saturating_sub(freed.bytes);
        self.usage.inodes = self.usage.inodes.saturating_sub(freed.inodes);
        Ok(Some(found))
    }

    fn forget(&mut self, path: &LayerPath) {
        for gone in keys_within(&self.known, path) {
            self.known.remove(&gone);
            self.names = self
                .names
                .saturating_sub(gone.bytes().len() + size_of::<(LayerPath, Known)>());
        }
    }

    /// Counts a file that was made.
    pub(crate) fn count(&mut self, made: &Stat) {
        self.usage.bytes += made.bytes;
        self.usage.inodes += 1;
    }

    /// Sets times and default ACLs, which making files inside would have changed or been changed by.
    pub(crate) fn finish(self) -> Result<Contents, ExtractError> {
        let mut done = Contents {
            usage: self.usage,
            ..Contents::default()
        };
        for (path, known) in &self.known {
            let open = self.existing(path);
            let fd = open.map_err(ExtractError::io(path.bytes(), "open the directory again"))?;
            if let Some(acl) = &known.default_acl {
                let name = OsStr::new(DEFAULT_ACL);
                let set = fsetxattr(&fd, name, acl, XattrFlags::empty());
                super::attributes::unless_unsupported(name, set)
                    .map_err(ExtractError::io(path.bytes(), "set its default ACL"))?;
            }
            set_mtime(&fd, known.mtime)
                .map_err(ExtractError::io(path.bytes(), "set its modification time"))?;
            let stat = Stat::of(&fd).map_err(ExtractError::io(path.bytes(), "look at it"))?;
            done.usage = done.usage
                + Usage {
                    bytes: stat.bytes,
                    inodes: 1,
                };
            if known.implied {
                done.implied.push(path.clone());
            }
            if known.implied && known.emptied {
                done.emptied.push(path.clone());
            }
            if known.whiteouts {
                done.whiteouts.push(path.clone());
            }
        }
        Ok(done)
    }
}

/// Flags that keep a lookup below its directory and off links and mounts.
pub(crate) fn inside() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

pub(super) fn set_opaque(entry: &[u8], directory: impl AsFd) -> Result<(), ExtractError> {
    mark_opaque(directory).map_err(ExtractError::io(entry, "mark a directory as opaque"))
}

/// Hides the lower layers' directory below this one.
pub(crate) fn mark_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
}

/// The keys at and below `path`.
pub(super) fn keys_within<V>(map: &BTreeMap<LayerPath, V>, path: &LayerPath) -> Vec<LayerPath> {
    let mut keys: Vec<LayerPath> = map
        .get_key_value(path)
        .map(|(key, _)| key.clone())
        .into_iter()
        .collect();
    // Names such as `a!` sort between `a` and `a/b`: what is below `a` starts with `a/`.
    let below = path.below();
    keys.extend(
        map.range((Bound::Excluded(below.clone()), Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.bytes().starts_with(below.bytes()))
            .cloned(),
    );
    keys
}
