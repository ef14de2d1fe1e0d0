//! Sockets on paths of any length: bind, connect, who is at the other end.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// A directory held open and the address of a socket in it that fits into `sun_path` (108 bytes)
/// whatever the directory's length.
pub(crate) struct Address {
    /// Keeps the number in `path` meaning what it means.
    directory: OwnedFd,
    name: PathBuf,
}

impl Address {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a socket needs a directory and a name",
            ));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        Ok(Self {
            directory,
            name: name.into(),
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        Path::new("/proc/self/fd")
            .join(self.directory.as_raw_fd().to_string())
            .join(&self.name)
    }

    fn unix(&self) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new(self.path())?)
    }
}

/// Binds and listens at `path` with mode 0600, in place of what may lie there.
///
/// The umask is the process's: single-threaded callers only.
pub(crate) fn listen(path: &Path, kind: SocketType, flags: SocketFlags) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags | SocketFlags::CLOEXEC, None)?;
    match rustix::fs::unlink(address.path()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = address
        .unix()
        .and_then(|unix| Ok(rustix::net::bind(&socket, &unix)?));
    rustix::process::umask(umask);
    bound?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// Connects to the SEQPACKET socket at `path`.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &address.unix()?)?;
    Ok(socket)
}

/// Whether the process at the other end is one of ours: root, or the user we run as.
pub(crate) fn peer_is_trusted(socket: &OwnedFd) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(socket.as_fd())?;
    Ok(peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}
