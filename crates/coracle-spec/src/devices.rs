//! Devices of a container: nodes to make and the rules of its device cgroup.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use coracle_types::container::Device as Requested;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::error::SpecError;
use crate::input::{ContainerInput, DeviceOwnership};
use crate::text;

/// Most nodes that one directory of devices may bring; a `/dev` with thousands of disks still fits.
const NODES_MAX: usize = 16_384;
/// How deep directories of devices are followed.
const DEPTH_MAX: usize = 8;
/// What of the node's `/dev` is never given on: the container has its own, as it has its own console
/// and its own ptmx, which leads to its own terminals.
const NOT_DEVICES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// Standard character devices by number, with the minor absent for all of a major.
const STANDARD: [(i64, Option<i64>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

/// Nodes to make in the container, and what its cgroup allows.
pub(crate) struct Devices {
    pub(crate) nodes: Vec<LinuxDevice>,
    pub(crate) rules: Vec<LinuxDeviceCgroup>,
}

/// Everything is denied but the standard devices, making nodes (which opens nothing) and what the
/// request names. A privileged container gets every device of the node and no rule in its way.
pub(crate) fn devices(input: &ContainerInput<'_>) -> Result<Devices, SpecError> {
    let mut nodes = Vec::new();
    let mut rules = vec![rule(false, None, (None, None), "rwm")];
    if input.container.security.privileged {
        rules = vec![rule(true, None, (None, None), "rwm")];
        collect(&input.host.dev, Path::new("/dev"), DEPTH_MAX, &mut nodes)
            .map_err(|source| failed("listing devices", &input.host.dev, source))?;
    } else {
        rules.push(rule(true, Some(LinuxDeviceType::C), (None, None), "m"));
        rules.push(rule(true, Some(LinuxDeviceType::B), (None, None), "m"));
        rules.extend(
            STANDARD.map(|(major, minor)| rule(true, Some(LinuxDeviceType::C), (Some(major), minor), "rwm")),
        );
    }
    for requested in &input.container.devices {
        let mut found = resolve(requested)?;
        if input.defaults.device_ownership == DeviceOwnership::SecurityContext {
            found.iter_mut().for_each(|node| own(node, input));
        }
        let access = if requested.permissions.is_empty() {
            "rwm"
        } else {
            &requested.permissions
        };
        for node in found {
            if !input.container.security.privileged {
                let number = (Some(node.major()), Some(node.minor()));
                rules.push(rule(true, Some(node.typ()), number, access));
            }
            nodes.retain(|known: &LinuxDevice| known.path() != node.path());
            nodes.push(node);
        }
    }
    Ok(Devices { nodes, rules })
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    (major, minor): (Option<i64>, Option<i64>),
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .access(access)
        .build()
        .expect("every field of the builder has a default");
    rule.set_typ(kind);
    rule.set_major(major);
    rule.set_minor(minor);
    rule
}

fn own(node: &mut LinuxDevice, input: &ContainerInput<'_>) {
    let security = &input.container.security;
    let id = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0);
    if let Some(uid) = id(security.run_as_user) {
        node.set_uid(Some(uid));
    }
    if let Some(gid) = id(security.run_as_group) {
        node.set_gid(Some(gid));
    }
}

/// One device of a request, or all below it when it is a directory; links on the way are followed.
fn resolve(requested: &Requested) -> Result<Vec<LinuxDevice>, SpecError> {
    let host = Path::new(&requested.host_path);
    let inside = if requested.container_path.is_empty() {
        host
    } else {
        Path::new(&requested.container_path)
    };
    let real = fs::canonicalize(host).map_err(|source| failed("resolving device", host, source))?;
    let metadata = fs::metadata(&real).map_err(|source| failed("reading device", host, source))?;
    if metadata.is_dir() {
        let mut nodes = Vec::new();
        collect(&real, inside, DEPTH_MAX, &mut nodes)
            .map_err(|source| failed("listing devices", host, source))?;
        if nodes.is_empty() {
            return Err(not_a_device(requested));
        }
        return Ok(nodes);
    }
    node(&metadata, inside)
        .map(|node| vec![node])
        .ok_or_else(|| not_a_device(requested))
}

fn not_a_device(requested: &Requested) -> SpecError {
    SpecError::field(
        "devices.host_path",
        &requested.host_path,
        "name a character or block device of the node, or a directory that has some",
    )
}

/// Gathers the device nodes below `directory` as they are to appear below `inside`; links, sockets,
/// pipes and plain files are passed over, as is what vanishes meanwhile.
fn collect(directory: &Path, inside: &Path, depth: usize, into: &mut Vec<LinuxDevice>) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let path = inside.join(&name);
        if metadata.is_dir() {
            let skipped = name.to_str().is_none_or(|name| NOT_DEVICES.contains(&name));
            if depth > 0 && !skipped {
                collect(&entry.path(), &path, depth - 1, into)?;
            }
        } else if name != "console" && name != "ptmx" {
            into.extend(node(&metadata, &path));
        }
        if into.len() > NODES_MAX {
            return Err(io::Error::other(format!("more than {NODES_MAX} devices")));
        }
    }
    Ok(())
}

fn node(metadata: &Metadata, path: &Path) -> Option<LinuxDevice> {
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let node = LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .expect("every field of the builder has a default");
    Some(node)
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> SpecError {
    SpecError::HostPath {
        operation,
        path: PathBuf::from(path),
        source,
    }
}

/// Paths and permissions of one device of a request.
pub(crate) fn validate(index: usize, device: &Requested) -> Result<(), SpecError> {
    text::absolute(&format!("devices[{index}].host_path"), &device.host_path)?;
    if !device.container_path.is_empty() {
        text::absolute(
            &format!("devices[{index}].container_path"),
            &device.container_path,
        )?;
    }
    let known = device.permissions.bytes().all(|letter| b"rwm".contains(&letter));
    if !known || device.permissions.len() > 3 {
        return Err(SpecError::field(
            format!("devices[{index}].permissions"),
            &device.permissions,
            "use letters of r (read), w (write), m (mknod)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_through_a_link_and_appears_where_it_is_wanted() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).expect("linked");
        let requested = Requested {
            host_path: link.display().to_string(),
            container_path: "/dev/nought".into(),
            permissions: String::new(),
        };
        let nodes = resolve(&requested).expect("a device");
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].major(), nodes[0].minor()), (1, 5));
        assert_eq!(nodes[0].path(), Path::new("/dev/nought"));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for path in ["/etc/passwd", "/etc", "/dev/does-not-exist"] {
            let requested = Requested {
                host_path: path.into(),
                ..Default::default()
            };
            assert!(resolve(&requested).is_err(), "{path}");
        }
    }

    #[test]
    fn terminals_and_the_console_stay_on_the_node() {
        let mut nodes = Vec::new();
        collect(Path::new("/dev"), Path::new("/dev"), DEPTH_MAX, &mut nodes).expect("readable");
        let paths: Vec<_> = nodes.iter().map(LinuxDevice::path).collect();
        assert!(paths.contains(&&PathBuf::from("/dev/null")));
        assert!(
            !paths
                .iter()
                .any(|path| path.starts_with("/dev/pts") || path.ends_with("console"))
        );
    }
}
