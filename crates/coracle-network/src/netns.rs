//! Network namespaces of pods: made on a thread that ends, pinned by a bind mount.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::{Batch, Socket, route};
use crate::{Error, NetlinkError};

/// `lo` is the first link of every network namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// Makes the directory of pins, and makes what is mounted in it show (and vanish) in other mount
/// namespaces too, as `ip netns` does: a pin copied into one would keep the namespace for ever.
pub(crate) fn prepare_directory(dir: &Path) -> Result<(), Error> {
    let failed = |operation| {
        move |source: io::Error| Error::Netns {
            operation,
            path: dir.into(),
            source,
        }
    };
    fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed("read the mounts around"))?;
    let dir_real = dir.canonicalize().map_err(failed("resolve the directory of"))?;
    let (point, shared) = enclosing_mount(&mounts, &dir_real);
    if shared {
        return Ok(());
    }
    if Path::new(point) != dir_real {
        mount_bind_recursive(dir, dir).map_err(|errno| failed("bind the directory of")(errno.into()))?;
    }
    mount_change(dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .map_err(|errno| failed("share the directory of")(errno.into()))
}

/// The mount point that holds `path`, and whether it is shared, by the text of mountinfo(5).
fn enclosing_mount<'a>(mountinfo: &'a str, path: &Path) -> (&'a str, bool) {
    let mut best = ("/", false);
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4) else { continue };
        // A later mount at the same point hides the earlier one.
        if path.starts_with(point) && point.len() >= best.0.len() {
            let shared = fields
                .skip(1)
                .take_while(|field| *field != "-")
                .any(|field| field.starts_with("shared:"));
            best = (point, shared);
        }
    }
    best
}

/// Makes a network namespace with `lo` up, owned by `owner` or by the process's user namespace,
/// and pins it at `path`. Nothing is left behind on failure.
pub(crate) fn create(path: &Path, owner: Option<&OwnedFd>) -> Result<(), Error> {
    let failed = |operation| {
        move |source: io::Error| Error::Netns {
            operation,
            path: path.into(),
            source,
        }
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .or_else(|error| match error.kind() {
            // A pin whose mount went with a reboot or a crash; a mounted one fails to open for writing or below.
            io::ErrorKind::AlreadyExists if !is_pinned(path) => File::open(path),
            _ => Err(error),
        })
        .map_err(failed("make the pin of"))?;
    let made = thread::Builder::new()
        .name("netns".into())
        .spawn({
            let owner = owner
                .map(OwnedFd::try_clone)
                .transpose()
                .map_err(failed("keep the owner of"))?;
            let path = path.to_owned();
            move || make_and_pin(&path, owner)
        })
        .map_err(failed("start a thread for"))
        .and_then(|thread| {
            thread.join().map_err(|_| Error::Lost {
                operation: "making a network namespace",
            })?
        });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Runs on a thread of its own, which it leaves in the new namespace.
fn make_and_pin(path: &Path, owner: Option<OwnedFd>) -> Result<(), Error> {
    let failed = |operation| {
        move |source: io::Error| Error::Netns {
            operation,
            path: path.into(),
            source,
        }
    };
    let netns = match owner {
        None => coracle_sys::netns::unshare_network().map_err(failed("make"))?,
        Some(owner) => {
            let netns = coracle_sys::netns::network_owned_by(owner.as_fd())
                .map_err(failed("make, in the pod's user namespace,"))?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| failed("enter")(errno.into()))?;
            netns
        }
    };
    lo_up()?;
    mount_bind(format!("/proc/thread-self/fd/{}", netns.as_raw_fd()), path)
        .map_err(|errno| failed("pin")(errno.into()))
}

/// Of the calling thread's namespace.
fn lo_up() -> Result<(), Error> {
    let failed = |source| Error::Instance {
        operation: "set up",
        subject: "lo of a new pod".into(),
        source,
    };
    let mut socket = Socket::route().map_err(failed)?;
    let mut batch = Batch::default();
    route::set_up(&mut batch, LOOPBACK_INDEX, false);
    socket.send_all(&batch).map_err(failed)
}

/// Sets `lo` up in a namespace that another process made and pinned at `path`: a pod's that belongs to a user
/// namespace.
pub(crate) fn set_up_loopback(path: &Path) -> Result<(), Error> {
    let failed = |operation| {
        move |source: io::Error| Error::Netns {
            operation,
            path: path.into(),
            source,
        }
    };
    let netns = File::open(path).map_err(failed("open"))?;
    let set_up = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
            Error::Netns {
                operation: "enter",
                path: path.into(),
                source: errno.into(),
            }
        })?;
        lo_up()
    };
    // The thread ends in that namespace.
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, set_up);
        thread
            .map_err(failed("start a thread for"))?
            .join()
            .map_err(|_| Error::Lost {
                operation: "setting up a network namespace",
            })?
    })
}

/// Unpins the namespace; one that is gone is no error. What runs in it keeps it alive.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let failed = |operation| {
        move |source: io::Error| Error::Netns {
            operation,
            path: path.into(),
            source,
        }
    };
    // A pin may have been mounted over by a retry after a crash; more than a few is no accident.
    for _ in 0..8 {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(failed("unpin")(errno.into())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the pin of")(error)),
        _ => Ok(()),
    }
}

/// Whether a namespace is mounted at `path`.
pub(crate) fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == NSFS_MAGIC)
}

/// statfs(2)'s type of namespaces' files.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Opens a pinned namespace.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Opens a netlink socket for links, addresses and routes inside the namespace. The thread that
/// went in for it is gone when this returns.
pub(crate) fn route_socket(netns: BorrowedFd<'_>) -> Result<Socket, NetlinkError> {
    inside(netns, Socket::route)?
}

/// Runs something short on a thread inside the namespace.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetlinkError> {
    let failed = |operation| move |source: io::Error| NetlinkError::Socket { operation, source };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                    .map_err(|errno| failed("setns(2) into the pod")(errno.into()))?;
                Ok(work())
            })
            .map_err(failed("start a thread"))?
            .join()
            .map_err(|_| failed("thread in the pod")(io::Error::other("panicked")))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_decides() {
        let text = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                    23 22 0:5 / /run rw,nosuid - tmpfs tmpfs rw\n\
                    24 23 0:6 / /run/netns rw master:3 shared:7 - tmpfs tmpfs rw\n";
        assert_eq!(
            enclosing_mount(text, Path::new("/run/netns")),
            ("/run/netns", true)
        );
        assert_eq!(enclosing_mount(text, Path::new("/run/netns2")), ("/run", false));
        assert_eq!(enclosing_mount(text, Path::new("/var")), ("/", true));
        assert_eq!(enclosing_mount("", Path::new("/var")), ("/", false));
    }
}
