//! Device nodes of a container and the links of /dev (config-linux.md, "Default Devices").

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mknodat, openat, statat, symlinkat,
};
use rustix::io::Errno;

use crate::error::Error;
use crate::filesystem::{Submounts, attach, clone_tree};
use crate::mounts::Planned;
use crate::paths::{Root, Target, is_device};
use crate::step::{At as _, Failure, Step};

/// A node to make.
#[derive(Debug)]
pub(crate) struct Node {
    path: String,
    kind: FileType,
    numbers: (u32, u32),
    mode: u32,
    owner: (u32, u32),
}

/// Nodes and links of a container.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    nodes: Vec<Node>,
    links: bool,
    /// Nodes cannot be made in a user namespace: those of the host are bound.
    bound: bool,
}

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];

/// Reads the devices of a specification. A /dev that is bound from the host gets neither nodes nor links:
/// they would be made on the host.
pub(crate) fn plan(spec: &Spec, mounts: &[Planned], user_namespace: bool) -> Result<Devices, Error> {
    let foreign = mounts
        .iter()
        .any(|mount| mount.is_at("/dev") && !mount.is_own("/dev", "tmpfs"));
    if foreign {
        return Ok(Devices::default());
    }
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default();
    let mut nodes = Vec::with_capacity(DEFAULTS.len() + given.len());
    for (path, major, minor) in DEFAULTS {
        if !given.iter().any(|device| device.path().to_str() == Some(path)) {
            let kind = FileType::CharacterDevice;
            nodes.push(Node {
                path: path.into(),
                kind,
                numbers: (major, minor),
                mode: 0o666,
                owner: (0, 0),
            });
        }
    }
    for device in given {
        nodes.push(read(device)?);
    }
    Ok(Devices {
        nodes,
        links: true,
        bound: user_namespace,
    })
}

fn read(device: &LinuxDevice) -> Result<Node, Error> {
    let path = device
        .path()
        .to_str()
        .filter(|path| path.starts_with('/') && path.len() > 1);
    let path = path.ok_or_else(|| {
        Error::spec(
            "linux.devices.path",
            device.path().to_string_lossy(),
            "give an absolute path",
        )
    })?;
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::spec(
                "linux.devices.type",
                path,
                "a node is of type b, c, u or p",
            ));
        }
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| {
            Error::spec(
                "linux.devices",
                number.to_string(),
                "device numbers are 0 to 4294967295",
            )
        })
    };
    Ok(Node {
        path: path.into(),
        kind,
        numbers: (number(device.major())?, number(device.minor())?),
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    })
}

impl Devices {
    /// In the child, with an empty umask: makes nodes and links.
    pub(crate) fn make(&self, root: &Root) -> Result<(), Failure> {
        for node in &self.nodes {
            if self.bound {
                node.bind(root)?
            } else {
                node.make(root)?
            }
        }
        if self.links {
            let step = Step::MakeDevices;
            let dev = root.ensure("/dev", Target::Directory).at(step, || "/dev")?;
            for (to, name) in LINKS {
                match symlinkat(to, &dev, name) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(Failure::new(step, errno, format!("link /dev/{name}"))),
                }
            }
        }
        Ok(())
    }
}

impl Node {
    fn make(&self, root: &Root) -> Result<(), Failure> {
        let step = Step::MakeDevices;
        let at = || self.path.clone();
        let (parent, name) = root.ensure_parent(&self.path).at(step, at)?;
        let device = makedev(self.numbers.0, self.numbers.1);
        match mknodat(&parent, name, self.kind, Mode::from_raw_mode(self.mode), device) {
            Ok(()) => {}
            // What an image brought along counts only if it is this very device.
            Err(Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let found = openat(&parent, name, flags, Mode::empty()).at(step, at)?;
                if self.kind != FileType::Fifo
                    && !is_device(found.as_fd(), self.kind, self.numbers).at(step, at)?
                {
                    let detail = format!("{} exists and is not the device wanted there", self.path);
                    return Err(Failure::new(step, Errno::EXIST, detail));
                }
                return Ok(());
            }
            Err(errno) => return Err(Failure::new(step, errno, self.path.as_str())),
        }
        if self.owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(step, at)?;
        }
        Ok(())
    }

    fn bind(&self, root: &Root) -> Result<(), Failure> {
        let step = Step::MakeDevices;
        let at = || self.path.clone();
        let source = host_device(&self.path, self.kind, self.numbers).at(step, at)?;
        let tree = clone_tree(source.as_fd(), Submounts::Without).at(step, at)?;
        let point = root.ensure(&self.path, Target::File).at(step, at)?;
        attach(tree.as_fd(), point.as_fd()).at(step, at)
    }
}

/// A device of the host by its usual path, seen to be it. In the child this works until the root changes.
fn host_device(path: &str, kind: FileType, numbers: (u32, u32)) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    if is_device(file.as_fd(), kind, numbers)? {
        Ok(file)
    } else {
        Err(Errno::NODEV)
    }
}

/// `/dev/null` of the host, seen to be the character device 1:3.
pub(crate) fn host_null() -> Result<OwnedFd, Errno> {
    host_device("/dev/null", FileType::CharacterDevice, (1, 3))
}

/// Makes a null device in a directory that is nobody else's, and opens it seen to be one.
pub(crate) fn own_null(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    mknodat(
        directory,
        "null",
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )?;
    open_null(directory, "null")
}

/// Opens `name` only if it is the null device (class CVE-2025-31133).
pub(crate) fn open_null(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(directory, name, flags, Mode::empty())?;
    if is_device(null.as_fd(), FileType::CharacterDevice, (1, 3))? {
        Ok(null)
    } else {
        Err(Errno::NODEV)
    }
}

/// Whether `name` in `directory` is a directory.
pub(crate) fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    let stat = statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
