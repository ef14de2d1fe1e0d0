//! Namespaces of a pod: made without a process that stays, pinned by bind mounts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_sys::fork;
use coracle_types::security::IdMapping;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fstatfs, open, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::Pid;

use crate::channel::{FromChild, FromParent, tell_child};
use crate::error::Error;
use crate::procfs::{ProcFs, sysctl_path};
use crate::spawn::{ChildSide, Layout, Request, kill_and_reap, spawn};
use crate::step::{At as _, Failure, Progress, Step};

pub use coracle_sys::namespaces::{Namespace, Namespaces};

const NSFS: i64 = 0x6e73_6673;

/// Where each namespace of a pod is pinned.
pub type Pins = BTreeMap<Namespace, PathBuf>;

/// Namespaces to make and pin.
#[derive(Debug, Default)]
pub struct PinRequest<'a> {
    /// What is made, and the file on which it is pinned (made when absent). A PID namespace is pinned by
    /// [`pod_init`](crate::pod_init), since it needs a process.
    pub pins: Pins,
    /// Host name in the new UTS namespace.
    pub hostname: Option<&'a str>,
    /// Kernel parameters of the new or joined namespaces, as `net.ipv4.ip_forward`.
    pub sysctls: BTreeMap<String, String>,
    /// User ids of a new user namespace.
    pub uids: &'a [IdMapping],
    /// Group ids of a new user namespace.
    pub gids: &'a [IdMapping],
    /// Existing namespaces that are joined: those that others made (network).
    pub join: Vec<(Namespace, PathBuf)>,
}

/// Makes namespaces and pins them; nothing is left when it fails. A user namespace owns the others.
///
/// # Errors
/// The step that failed.
pub fn pin(request: &PinRequest<'_>) -> Result<(), Error> {
    for unfit in [
        Namespace::Pid,
        Namespace::Mount,
        Namespace::Cgroup,
        Namespace::Time,
    ] {
        if request.pins.contains_key(&unfit) {
            return Err(Error::spec(
                "namespaces",
                unfit.file(),
                "only user, net, ipc and uts can be pinned so",
            ));
        }
    }
    let layout = Layout {
        new: request.pins.keys().copied().collect(),
        join: open_links(&request.join)?,
        like: None,
        uids: request.uids.to_vec(),
        gids: request.gids.to_vec(),
    };
    check_sysctls(&request.sysctls, &layout)?;
    let progress = Progress::new()?;
    let procfs = ProcFs::of_host()?;
    let child = spawn(
        &Request {
            layout: &layout,
            entrance: None,
            progress: &progress,
            procfs: &procfs,
            oom_score_adj: None,
            keep: Vec::new(),
        },
        |side| hold(request, side),
    )?;
    let heard = child.hear(&progress);
    let mut made = Vec::new();
    let result = match heard {
        Ok(_) => request
            .pins
            .iter()
            .try_for_each(|(kind, path)| pin_one(child.pid, *kind, path).map(|()| made.push(path))),
        Err(error) => Err(error),
    };
    child.abandon();
    if result.is_err() {
        for path in made {
            let _ = unpin(path);
        }
    }
    result
}

/// In the child: sets what belongs to the namespaces and holds them until the parent has pinned them.
fn hold(request: &PinRequest<'_>, side: &ChildSide<'_>) -> Result<Infallible, Failure> {
    if let Some(hostname) = request.hostname {
        side.progress.enter(Step::Hostname);
        rustix::system::sethostname(hostname.as_bytes()).at(Step::Hostname, || hostname)?;
    }
    side.progress.enter(Step::Sysctls);
    set_sysctls(side.procfs, &request.sysctls)?;
    side.tell(&FromChild::Ready {
        warnings: Vec::new(),
        console: None,
    })?;
    side.wait_for(FromParent::Start)?;
    fork::exit(0)
}

/// Binds a namespace of a process on a file, which is made when absent.
pub(crate) fn pin_one(pid: Pid, kind: Namespace, path: &Path) -> Result<(), Error> {
    let step = Step::PinNamespaces;
    let at = || path.display().to_string();
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o444)).at(step, at)?;
    let link = format!("/proc/{}/ns/{}", pid.as_raw_nonzero(), kind.file());
    mount_bind(&link, path).at(step, at).map_err(|failure| {
        let _ = unlinkat(CWD, path, AtFlags::empty());
        failure.into()
    })
}

/// Takes a pin away: its mount and its file. One that is gone already is no error.
///
/// # Errors
/// What umount2(2) or unlink(2) say.
pub fn unpin(path: &Path) -> Result<(), Error> {
    let step = Step::PinNamespaces;
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(Failure::new(step, errno, format!("unmount {}", path.display())).into()),
    }
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Failure::new(step, errno, format!("unlink {}", path.display())).into()),
    }
}

/// A user namespace with these mappings, held by its descriptor alone: for id-mapped mounts.
///
/// # Errors
/// The step that failed.
pub fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd, Error> {
    let layout = Layout {
        new: Namespaces::NONE.with(Namespace::User),
        uids: uids.to_vec(),
        gids: gids.to_vec(),
        ..Layout::default()
    };
    let progress = Progress::new()?;
    let procfs = ProcFs::of_host()?;
    let child = spawn(
        &Request {
            layout: &layout,
            entrance: None,
            progress: &progress,
            procfs: &procfs,
            oom_score_adj: None,
            keep: Vec::new(),
        },
        |side| {
            side.wait_for(FromParent::Start)?;
            fork::exit(0)
        },
    )?;
    let link = format!("/proc/{}/ns/user", child.pid.as_raw_nonzero());
    let opened =
        open(&link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at(Step::MapIds, || link.clone());
    let _ = tell_child(child.channel.as_fd(), FromParent::Start);
    kill_and_reap(child.pidfd.as_fd());
    Ok(opened?)
}

/// The namespaces of a specification.
pub(crate) fn layout(spec: &Spec) -> Result<Layout<'static>, Error> {
    let field = "linux.namespaces";
    let linux = spec.linux().as_ref();
    let mut layout = Layout::default();
    let mut paths = Vec::new();
    for namespace in linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
    {
        let kind = kind(namespace.typ());
        if layout.new.has(kind) || paths.iter().any(|(have, _)| *have == kind) {
            return Err(Error::spec(field, kind.file(), "is given twice"));
        }
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => paths.push((kind, path.clone())),
            _ => layout.new = layout.new.with(kind),
        }
    }
    if !layout.new.has(Namespace::Mount) {
        return Err(Error::spec(
            field,
            "mount",
            "a container needs a mount namespace of its own, without a path",
        ));
    }
    if layout.new.has(Namespace::Time) {
        return Err(Error::unsupported(
            field,
            "time",
            "a time namespace is not offered; leave it out",
        ));
    }
    layout.join = open_links(&paths)?;
    let mappings = |given: Option<&Vec<LinuxIdMapping>>| id_mappings(given.map_or(&[], Vec::as_slice));
    layout.uids = mappings(linux.and_then(|linux| linux.uid_mappings().as_ref()));
    layout.gids = mappings(linux.and_then(|linux| linux.gid_mappings().as_ref()));
    if layout.new.has(Namespace::User) && (layout.uids.is_empty() || layout.gids.is_empty()) {
        return Err(Error::spec(
            "linux.uidMappings",
            "",
            "a new user namespace needs mappings of both kinds of ids",
        ));
    }
    Ok(layout)
}

pub(crate) fn id_mappings(given: &[LinuxIdMapping]) -> Vec<IdMapping> {
    given
        .iter()
        .map(|map| IdMapping {
            host_id: map.host_id(),
            container_id: map.container_id(),
            length: map.size(),
        })
        .collect()
}

pub(crate) fn kind(of: LinuxNamespaceType) -> Namespace {
    match of {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::User => Namespace::User,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Network => Namespace::Net,
        LinuxNamespaceType::Time => Namespace::Time,
    }
}

/// Opens links to namespaces; what is no namespace is refused, and the node's own is nothing to join.
pub(crate) fn open_links(paths: &[(Namespace, PathBuf)]) -> Result<Vec<(Namespace, OwnedFd)>, Error> {
    let step = Step::OpenNamespaces;
    let mut links = Vec::new();
    for (kind, path) in paths {
        let at = || format!("{} namespace {}", kind.file(), path.display());
        // A FIFO at that path must not hold us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let link = open(path, flags, Mode::empty()).at(step, at)?;
        if fstatfs(&link).at(step, at)?.f_type != NSFS {
            return Err(Error::spec(
                "linux.namespaces.path",
                path.to_string_lossy(),
                "is no namespace",
            ));
        }
        if !is_own(&link, *kind).at(step, at)? {
            links.push((*kind, link));
        }
    }
    Ok(links)
}

fn is_own(link: &OwnedFd, kind: Namespace) -> Result<bool, Errno> {
    let (theirs, ours) = (
        fstat(link)?,
        rustix::fs::stat(format!("/proc/self/ns/{}", kind.file()))?,
    );
    Ok(theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev)
}

/// Refuses what would change the node: parameters of a namespace that the container does not have, and
/// those of none (class CVE-2022-0811).
pub(crate) fn check_sysctls<'a>(
    sysctls: impl IntoIterator<Item = (&'a String, &'a String)>,
    layout: &Layout<'_>,
) -> Result<(), Error> {
    for (key, value) in sysctls {
        let field = "linux.sysctl";
        let path =
            sysctl_path(key).ok_or_else(|| Error::spec(field, key.as_str(), "is no kernel parameter"))?;
        if value.is_empty() || value.len() > 4096 || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(Error::spec(
                field,
                value.as_str(),
                "a value is one line without control characters",
            ));
        }
        let namespace = if path.starts_with("net/") {
            Namespace::Net
        } else if path.starts_with("fs/mqueue/") || IPC.contains(&path.as_str()) {
            Namespace::Ipc
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            Namespace::Uts
        } else {
            return Err(Error::spec(
                field,
                key.as_str(),
                "belongs to no namespace and would change the node",
            ));
        };
        if !layout.has(namespace) {
            let problem = format!(
                "needs a {} namespace of its own, else it would change the node",
                namespace.file()
            );
            return Err(Error::spec(field, key.as_str(), problem));
        }
    }
    Ok(())
}

const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/shm_next_id",
];

pub(crate) fn set_sysctls<'a>(
    procfs: &ProcFs,
    sysctls: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), Failure> {
    for (key, value) in sysctls {
        procfs
            .set_sysctl(key, value)
            .at(Step::Sysctls, || format!("{key}={value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_of_the_node_are_refused() {
        let own = Layout {
            new: Namespaces::NONE.with(Namespace::Net),
            ..Layout::default()
        };
        let check = |key: &str, value: &str| check_sysctls([(&key.to_owned(), &value.to_owned())], &own);
        assert!(check("net.ipv4.ip_unprivileged_port_start", "0").is_ok());
        for (key, value) in [
            ("kernel.core_pattern", "|/bin/x"),
            ("kernel.shmmax", "1"),
            ("net.ipv4.x", "1\n+kernel.core_pattern=x"),
            ("net.ipv4.x", ""),
            ("net.../../kernel.x", "1"),
        ] {
            assert!(check(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(open_links(&[(Namespace::Net, file.path().into())]).is_err());
        let own = open_links(&[(Namespace::Net, "/proc/self/ns/net".into())]).unwrap();
        assert!(own.is_empty(), "the node's own namespace is nothing to join");
    }
}
