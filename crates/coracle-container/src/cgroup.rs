//! Cgroups of containers in every hierarchy of the node: v1, v2 and both side by side.

mod breakdown;
mod detail;
mod device_filter;
mod files;
mod hierarchy;
mod life;
mod oom;
mod pressure;
mod stats;
mod v1;
mod v2;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_sys::bpf;
use coracle_types::ExecId;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use rustix::fs::{Mode, OFlags, mkdir, open};
use rustix::io::Errno;

use crate::error::Error;
use hierarchy::{Hierarchy, Version};

pub use breakdown::Breakdown;
pub use detail::{DeviceIo, HugePages, Processes, counts_huge_pages};
pub use oom::{KillsAbove, OomEvents};
pub use pressure::{Pressure, Pressures, Stall, tells_pressure};
pub use stats::Stats;

/// An absolute path of a cgroup below the root of each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(Box<str>);

impl CgroupPath {
    /// Its text; begins with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CgroupPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let whole = text.len() > 1
            && text.len() < 3000
            && text.starts_with('/')
            && text[1..].split('/').all(|part| {
                !part.is_empty()
                    && part != "."
                    && part != ".."
                    && part.len() <= 255
                    && !part.bytes().any(|b| b < b' ' || b == 0x7f)
            });
        if whole {
            Ok(Self(text.into()))
        } else {
            Err(Error::spec(
                "linux.cgroupsPath",
                text,
                "give an absolute path of plain names, as /pods/pod1/container1",
            ))
        }
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cgroup: one directory in each hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: CgroupPath,
    hierarchies: &'static [Hierarchy],
}

/// The cgroup of one exec below a container's: in the v2 hierarchy, or the v1 freezer's without one.
#[derive(Debug)]
pub struct ExecCgroup {
    directory: PathBuf,
    v1: bool,
}

/// Descriptors by which a child gets into a cgroup.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Directory of the v2 hierarchy, for CLONE_INTO_CGROUP.
    pub(crate) v2: Option<OwnedFd>,
    /// `tasks` files of the v1 hierarchies, into which the single-threaded child writes `0`: any other
    /// way waits milliseconds for an RCU grace period.
    pub(crate) tasks: Vec<OwnedFd>,
}

impl Cgroup {
    /// Makes the directories that are missing, in every hierarchy.
    ///
    /// # Errors
    /// [`Error::Cgroup`]; what was made is removed again.
    pub fn create(path: &CgroupPath) -> Result<Self, Error> {
        let cgroup = Self {
            path: path.clone(),
            hierarchies: hierarchy::of_node()?,
        };
        let mut made = Vec::new();
        let result = cgroup
            .hierarchies
            .iter()
            .try_for_each(|one| make(one, path, &mut made));
        if let Err(error) = result {
            for directory in made.iter().rev() {
                let _ = rustix::fs::rmdir(directory);
            }
            return Err(error);
        }
        Ok(cgroup)
    }

    /// One that may be gone: systemd takes a scope's away with its last process.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the node's hierarchies cannot be found.
    pub fn at(path: &CgroupPath) -> Result<Self, Error> {
        Ok(Self {
            path: path.clone(),
            hierarchies: hierarchy::of_node()?,
        })
    }

    /// One that exists in at least one hierarchy.
    ///
    /// # Errors
    /// [`Error::Cgroup`] with `NotFound` when it exists nowhere.
    pub fn open(path: &CgroupPath) -> Result<Self, Error> {
        let cgroup = Self {
            path: path.clone(),
            hierarchies: hierarchy::of_node()?,
        };
        if cgroup.directories().iter().any(|directory| directory.exists()) {
            return Ok(cgroup);
        }
        Err(Error::Cgroup {
            operation: "open".into(),
            path: path.as_str().into(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Whether the node has a v2 hierarchy, alone or beside v1 ones.
    #[must_use]
    pub fn has_v2(&self) -> bool {
        self.hierarchies.iter().any(Hierarchy::is_v2)
    }

    /// Applies limits; those absent stay as they are.
    ///
    /// # Errors
    /// The file and the value that the kernel refused, or the controller that the node lacks.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.refuse_what_nobody_limits(resources)?;
        for hierarchy in self.hierarchies {
            let directory = self.directory(hierarchy);
            match hierarchy.version {
                Version::V1(_) => v1::apply(hierarchy, &directory, resources)?,
                Version::V2(_) => v2::apply(hierarchy, &directory, resources)?,
            }
        }
        match resources.devices() {
            Some(devices) if !devices.is_empty() => self.apply_devices(devices),
            _ => Ok(()),
        }
    }

    /// A limit that would silently not hold is refused; a limit of 0 huge pages holds without controller.
    fn refuse_what_nobody_limits(&self, resources: &LinuxResources) -> Result<(), Error> {
        let memory = resources
            .memory()
            .as_ref()
            .and_then(|memory| memory.limit())
            .is_some_and(|limit| limit > 0);
        let cpu = resources
            .cpu()
            .as_ref()
            .and_then(|cpu| cpu.quota())
            .is_some_and(|quota| quota > 0);
        let pids = pids_limit(resources).is_some_and(|limit| limit != "max");
        let huge = resources
            .hugepage_limits()
            .iter()
            .flatten()
            .any(|limit| limit.limit() > 0);
        for (wanted, controller) in [
            (memory, "memory"),
            (cpu, "cpu"),
            (pids, "pids"),
            (huge, "hugetlb"),
        ] {
            if wanted && self.controlled_by(controller).is_none() {
                return Err(Error::Cgroup {
                    operation: format!(
                        "limit: the node has no {controller} controller; leave the limit out or enable it"
                    ),
                    path: self.path.as_str().into(),
                    source: std::io::ErrorKind::Unsupported.into(),
                });
            }
        }
        Ok(())
    }

    /// A program of the v2 hierarchy, where the kernel takes one, else the files of the v1 controller.
    fn apply_devices(&self, devices: &[LinuxDeviceCgroup]) -> Result<(), Error> {
        let rules = device_filter::rules(devices)?;
        let v1 = self.controlled_by("devices").filter(|(_, v2)| !v2);
        if let Some(directory) = self.v2_directory() {
            let attached = loaded(device_filter::program(&rules)).and_then(|program| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let cgroup = open(&directory, flags, Mode::empty())?;
                bpf::replace_device_program(cgroup.as_fd(), program.as_fd())
            });
            match attached {
                Ok(()) => return Ok(()),
                Err(errno) if v1.is_none() => {
                    return Err(Error::Cgroup {
                        operation: "attach a device program".into(),
                        path: directory,
                        source: errno.into(),
                    });
                }
                Err(_) => {}
            }
        }
        let Some((directory, _)) = v1 else {
            return Err(Error::Cgroup {
                operation: "restrict devices: there is neither a v2 hierarchy nor the devices controller"
                    .into(),
                path: self.path.as_str().into(),
                source: std::io::ErrorKind::Unsupported.into(),
            });
        };
        for rule in &rules {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            files::write(&directory, file, &rule.v1())?;
        }
        Ok(())
    }

    /// Moves the calling process here; it must have one thread (v1 moves the calling thread).
    ///
    /// # Errors
    /// The file that refused.
    pub fn attach_self(&self) -> Result<(), Error> {
        for hierarchy in self.hierarchies {
            let file = if hierarchy.is_v2() {
                "cgroup.procs"
            } else {
                "tasks"
            };
            files::write(&self.directory(hierarchy), file, "0")?;
        }
        Ok(())
    }

    /// The cgroup of an exec below this one.
    pub(crate) fn create_exec(&self, id: &ExecId) -> Result<Option<ExecCgroup>, Error> {
        let (parent, v1) = match (self.v2_directory(), self.controlled_by("freezer")) {
            (Some(directory), _) => (directory, false),
            (None, Some((directory, false))) => (directory, true),
            _ => return Ok(None),
        };
        let directory = parent.join(format!("exec-{}", id.short()));
        match mkdir(&directory, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(Some(ExecCgroup { directory, v1 })),
            Err(errno) => Err(Error::Cgroup {
                operation: "mkdir".into(),
                path: directory,
                source: errno.into(),
            }),
        }
    }

    /// Opens the ways in; with `exec` into that cgroup where it is.
    pub(crate) fn entrance(&self, exec: Option<&ExecCgroup>) -> Result<Entrance, Error> {
        let mut entrance = Entrance {
            v2: None,
            tasks: Vec::new(),
        };
        for hierarchy in self.hierarchies {
            let own = self.directory(hierarchy);
            let directory = match exec {
                Some(exec) if exec.directory.starts_with(&own) => exec.directory.clone(),
                _ => own,
            };
            let (path, flags) = if hierarchy.is_v2() {
                (directory, OFlags::RDONLY | OFlags::DIRECTORY)
            } else {
                (directory.join("tasks"), OFlags::WRONLY)
            };
            let fd = open(&path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| Error::Cgroup {
                operation: "open".into(),
                path,
                source: errno.into(),
            })?;
            if hierarchy.is_v2() {
                entrance.v2 = Some(fd)
            } else {
                entrance.tasks.push(fd)
            }
        }
        Ok(entrance)
    }

    /// Directory of v2 in which `pid` is now, when that is this cgroup or below it.
    pub(crate) fn v2_directory_of(&self, pid: rustix::process::Pid) -> Option<PathBuf> {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let inside = Path::new(path).starts_with(self.path.as_str());
        let mount = &self.hierarchies.iter().find(|hierarchy| hierarchy.is_v2())?.mount;
        inside.then(|| mount.join(path.trim_start_matches('/')))
    }

    fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(self.path.as_str().trim_start_matches('/'))
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| self.directory(hierarchy))
            .collect()
    }

    fn v2_directory(&self) -> Option<PathBuf> {
        self.hierarchies
            .iter()
            .find(|one| one.is_v2())
            .map(|one| self.directory(one))
    }

    /// The directory in which a controller acts on this cgroup, and whether that is version 2.
    fn controlled_by(&self, controller: &str) -> Option<(PathBuf, bool)> {
        let hierarchy = self.hierarchies.iter().find(|one| one.controls(controller))?;
        Some((self.directory(hierarchy), hierarchy.is_v2()))
    }

    /// Mount points and controllers of the v1 hierarchies and the v2 one, with this cgroup's directories.
    pub(crate) fn views(&self) -> Vec<View> {
        self.hierarchies
            .iter()
            .map(|hierarchy| View {
                name: hierarchy
                    .mount
                    .file_name()
                    .map_or_else(|| "cgroup".into(), |name| name.to_string_lossy().into_owned()),
                controllers: match &hierarchy.version {
                    Version::V1(controllers) => Some(controllers.clone()),
                    Version::V2(_) => None,
                },
                directory: self.directory(hierarchy),
            })
            .collect()
    }
}

/// A device program, loaded once for all cgroups with the same rules: the kernel takes half a millisecond
/// to verify one, and a pod's containers share two or three sets of rules.
fn loaded(program: Vec<bpf::Instruction>) -> Result<Arc<OwnedFd>, Errno> {
    static LOADED: Mutex<Vec<(Vec<bpf::Instruction>, Arc<OwnedFd>)>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, fd)) = loaded.iter().find(|(known, _)| *known == program) {
        return Ok(Arc::clone(fd));
    }
    let fd = Arc::new(bpf::load_device_program(&program)?);
    if loaded.len() == 8 {
        loaded.remove(0);
    }
    loaded.push((program, Arc::clone(&fd)));
    Ok(fd)
}

/// One hierarchy as a container's own `/sys/fs/cgroup` shows it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Last part of its mount point.
    pub(crate) name: String,
    /// Of version 1; `None` is version 2.
    pub(crate) controllers: Option<Vec<String>>,
    /// The container's directory in it.
    pub(crate) directory: PathBuf,
}

/// The last directory first: those above it are there already, as a rule.
fn make(hierarchy: &Hierarchy, path: &CgroupPath, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let leaf = hierarchy.mount.join(&path.as_str()[1..]);
    match make_one(hierarchy, &leaf, made) {
        Err(Error::Cgroup { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let mut directory = hierarchy.mount.clone();
            for part in path.as_str().split('/').skip(1) {
                directory.push(part);
                make_one(hierarchy, &directory, made)?;
            }
        }
        result => result?,
    }
    match leaf.parent() {
        Some(parent) if hierarchy.is_v2() => v2::delegate(hierarchy, &hierarchy.mount, parent),
        _ => Ok(()),
    }
}

fn make_one(hierarchy: &Hierarchy, directory: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    match mkdir(directory, Mode::from_raw_mode(0o755)) {
        Ok(()) => made.push(directory.into()),
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => {
            return Err(Error::Cgroup {
                operation: "mkdir".into(),
                path: directory.into(),
                source: errno.into(),
            });
        }
    }
    if !hierarchy.is_v2() && hierarchy.controls("cpuset") {
        v1::fill_cpuset(directory)
    } else {
        Ok(())
    }
}

/// `pids.max` as both versions take it; 0 leaves it as it is.
fn pids_limit(resources: &LinuxResources) -> Option<String> {
    match resources.pids().as_ref()?.limit() {
        0 => None,
        ..0 => Some("max".into()),
        limit => Some(limit.to_string()),
    }
}

/// `2MB`, `1GB`: what may become part of a file's name.
fn page_size(text: &str) -> Result<&str, Error> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let unit = &text[digits.len()..];
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && ["KB", "MB", "GB"].contains(&unit)
    {
        return Ok(text);
    }
    Err(Error::spec(
        "linux.resources.hugepageLimits",
        text,
        "give a page size as 2MB or 1GB",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_would_leave_the_hierarchy_is_refused() {
        assert!("/pods/pod1/c".parse::<CgroupPath>().is_ok());
        for bad in [
            "",
            "/",
            "pods",
            "/../x",
            "/a/./b",
            "/a//b",
            "/a/",
            "/a\nb",
            &format!("/{}", "a".repeat(256)),
        ] {
            assert!(bad.parse::<CgroupPath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn page_sizes_cannot_name_another_file() {
        assert!(page_size("2MB").is_ok() && page_size("1GB").is_ok());
        for bad in ["", "MB", "2", "2mb", "../2MB", "2MB/x"] {
            assert!(page_size(bad).is_err(), "{bad:?}");
        }
    }
}
