//! Mounts of a container: kernel file systems, the pod's files, volumes, images.

use std::path::{Path, PathBuf};

use coracle_types::container::{Mount as Requested, MountPropagation};
use coracle_types::own_mounts;
use coracle_types::security::{IdMapping, NamespaceMode};
use oci_spec::runtime::{Mount, MountBuilder};

use crate::error::SpecError;
use crate::image_volumes;
use crate::input::ContainerInput;
use crate::namespaces::{has_cgroup_namespace, mappings, user_namespace};
use crate::text;

/// What a volume's mount may add (CRI 1.37, `Mount.mount_options`).
const BIND_OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];
/// The group of terminals, `tty` on every distribution; devpts needs it mapped in a user namespace.
const TTY_GROUP: u32 = 5;

/// The mounts, parents before children, and the propagation that the root needs for them.
pub(crate) struct Mounts {
    pub(crate) list: Vec<Mount>,
    pub(crate) rootfs_propagation: Option<String>,
}

/// Kernel file systems first; then all that is bound, shallow before deep so that none hides another.
/// A volume of the request takes the place of what would be there otherwise, and one at `/dev` of
/// everything below `/dev`.
pub(crate) fn mounts(input: &ContainerInput<'_>) -> Result<Mounts, SpecError> {
    let requested = &input.container.mounts;
    let taken: Vec<String> = requested
        .iter()
        .map(|mount| text::cleaned(&mount.container_path))
        .collect();
    let dev_is_taken = taken.iter().any(|path| path == "/dev");
    let free = |destination: &str| {
        let below_taken_dev = dev_is_taken && destination.starts_with("/dev/");
        !below_taken_dev && !taken.iter().any(|path| path == destination)
    };
    let mut bound: Vec<(String, Mount)> = Vec::new();
    for mount in requested {
        bound.push((text::cleaned(&mount.container_path), volume(input, mount)?));
    }
    for (destination, mount) in pod_files(input) {
        if free(&destination) {
            bound.push((destination, mount));
        }
    }
    for destination in image_volumes::destinations(&input.image.volumes, &taken)? {
        if free(&destination) {
            let volume = mount(&destination, own_mounts::VOLUME, own_mounts::VOLUME, &[]);
            bound.push((destination, volume));
        }
    }
    bound.sort_by_key(|(destination, _)| destination.matches('/').count());

    let mut list: Vec<Mount> = kernel_mounts(input)
        .into_iter()
        .filter(|mount| mount.destination().to_str().is_some_and(&free))
        .filter(|mount| {
            !bound
                .iter()
                .any(|(destination, _)| Path::new(destination) == mount.destination())
        })
        .collect();
    list.extend(bound.into_iter().map(|(_, mount)| mount));
    Ok(Mounts {
        list,
        rootfs_propagation: rootfs_propagation(requested),
    })
}

/// A mount that travels needs a root that lets it: shared wins over slave; private needs nothing.
fn rootfs_propagation(requested: &[Requested]) -> Option<String> {
    let any = |kind| requested.iter().any(|mount| mount.propagation == kind);
    if any(MountPropagation::Bidirectional) {
        Some("rshared".to_owned())
    } else if any(MountPropagation::HostToContainer) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("destination is set and there are no mappings to disagree")
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut bind = mount(destination, "bind", "", options);
    bind.set_source(Some(source.to_path_buf()));
    bind
}

fn kernel_mounts(input: &ContainerInput<'_>) -> Vec<Mount> {
    let privileged = input.container.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let pod = &input.pod.security.namespaces;
    let user = user_namespace(pod);
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if user.is_none_or(|user| maps(&user.gids, TTY_GROUP)) {
        pts.push("gid=5");
    }
    let host_ipc_in_user_namespace = user.is_some() && pod.ipc == NamespaceMode::Node;
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
    ];
    // mqueue belongs to the IPC namespace's owner: EPERM for a user namespace in the node's IPC.
    if host_ipc_in_user_namespace {
        list.push(bind(
            Path::new("/dev/mqueue"),
            "/dev/mqueue",
            &["rbind", "rprivate", "nosuid", "noexec", "nodev"],
        ));
    } else {
        list.push(mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ));
    }
    // sysfs belongs to the network namespace's owner, likewise.
    if user.is_some() && pod.network == NamespaceMode::Node {
        list.push(bind(
            Path::new("/sys"),
            "/sys",
            &["rbind", "rprivate", "rro", "nosuid", "noexec", "nodev"],
        ));
    } else {
        list.push(mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ));
    }
    let mut cgroup = vec!["nosuid", "noexec", "nodev", "relatime", access];
    if !has_cgroup_namespace(input) {
        cgroup.extend(input.host.cgroup_mount_options.iter().map(String::as_str));
    }
    list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &cgroup));
    list
}

fn maps(ranges: &[IdMapping], id: u32) -> bool {
    ranges.iter().any(|range| {
        id.checked_sub(range.container_id)
            .is_some_and(|offset| offset < range.length)
    })
}

/// Host name, hosts and resolver files and shared memory, as the pod has them. The files follow the
/// root's mode, so that a read-only container cannot write them either. In a user namespace they are the
/// pod's root's on the disk: they lie on tmpfs, whose ids can be mapped from Linux 6.3 on only.
fn pod_files(input: &ContainerInput<'_>) -> Vec<(String, Mount)> {
    let access = if input.container.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let paths = input.paths;
    let mut files = Vec::new();
    for (destination, source) in [
        ("/etc/hostname", &paths.hostname),
        ("/etc/hosts", &paths.hosts),
        ("/etc/resolv.conf", &paths.resolv_conf),
    ] {
        if let Some(source) = source {
            files.push((
                destination.to_owned(),
                bind(source, destination, &["rbind", "rprivate", access]),
            ));
        }
    }
    let node = PathBuf::from("/dev/shm");
    let shm = if input.pod.security.namespaces.ipc == NamespaceMode::Node {
        Some(&node)
    } else {
        paths.shm.as_ref()
    };
    if let Some(source) = shm {
        files.push((
            "/dev/shm".to_owned(),
            bind(
                source,
                "/dev/shm",
                &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"],
            ),
        ));
    }
    files
}

fn map_ids(mount: &mut Mount, uids: &[IdMapping], gids: &[IdMapping]) {
    if !uids.is_empty() {
        mount.set_uid_mappings(Some(mappings(uids)));
        mount.set_gid_mappings(Some(mappings(gids)));
    }
}

fn volume(input: &ContainerInput<'_>, requested: &Requested) -> Result<Mount, SpecError> {
    if let Some(image) = &requested.image {
        return image_volume(input, requested, &image.image);
    }
    let source = PathBuf::from(&requested.host_path);
    let propagation = match requested.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    if requested.recursive_read_only && !input.host.recursive_read_only {
        return Err(SpecError::RecursiveReadOnly {
            host_path: requested.host_path.clone(),
        });
    }
    let access = match (requested.readonly, requested.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    options.extend(requested.mount_options.iter().map(String::as_str));
    let mut volume = bind(&source, &text::cleaned(&requested.container_path), &options);
    map_ids(&mut volume, &requested.uid_mappings, &requested.gid_mappings);
    Ok(volume)
}

/// The layers of an image, or a part of their merged tree. Never a way to more rights than the container
/// has: set-user-id programs and devices of it do nothing. Files are as executable as they are in the image,
/// as containerd and CRI-O have it, unless the request says noexec.
fn image_volume(input: &ContainerInput<'_>, requested: &Requested, image: &str) -> Result<Mount, SpecError> {
    let path = &requested.container_path;
    let lowers = input.paths.image_mounts.get(path).ok_or_else(|| {
        SpecError::unsupported(
            "mounts.image",
            image,
            format!("nothing of it is ready for {path}"),
        )
    })?;
    if requested.recursive_read_only && !input.host.recursive_read_only {
        return Err(SpecError::RecursiveReadOnly {
            host_path: image.to_owned(),
        });
    }
    let mut options: Vec<&str> = vec!["ro", "nosuid", "nodev"];
    let more = requested.mount_options.iter().map(String::as_str);
    options.extend(more.filter(|option| !["nosuid", "nodev"].contains(option)));
    let user = user_namespace(&input.pod.security.namespaces);
    if requested.uid_mappings.is_empty() && user.is_some() {
        options.push("idmap");
    }
    let lowers: Vec<String> = lowers
        .iter()
        .map(|lower| format!("{}={}", own_mounts::LOWER, lower.display()))
        .collect();
    options.extend(lowers.iter().map(String::as_str));
    let sub_path = format!("{}={}", own_mounts::SUB_PATH, requested.image_sub_path);
    if !requested.image_sub_path.is_empty() {
        options.push(&sub_path);
    }
    let mut volume = mount(&text::cleaned(path), own_mounts::LAYERS, image, &options);
    map_ids(&mut volume, &requested.uid_mappings, &requested.gid_mappings);
    Ok(volume)
}

/// Checks one volume of a request; `index` names it in errors.
pub(crate) fn validate(index: usize, mount: &Requested) -> Result<(), SpecError> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    text::absolute(&field("container_path"), &mount.container_path)?;
    if text::cleaned(&mount.container_path) == "/" {
        return Err(SpecError::field(
            field("container_path"),
            &mount.container_path,
            "mount below the root, not over it",
        ));
    }
    if mount.container_path.split('/').any(|part| part.len() > 255) {
        return Err(SpecError::field(
            field("container_path"),
            &mount.container_path,
            "give shorter names: 255 bytes a part at most",
        ));
    }
    match &mount.image {
        Some(image) => validate_image_mount(&field, mount, &image.image)?,
        None => {
            text::absolute(&field("host_path"), &mount.host_path)?;
            if !mount.image_sub_path.is_empty() {
                let remedy = "leave it empty: the mount has no image";
                return Err(SpecError::field(
                    field("image_sub_path"),
                    &mount.image_sub_path,
                    remedy,
                ));
            }
        }
    }
    if mount.recursive_read_only && !mount.readonly {
        return Err(SpecError::field(
            field("recursive_read_only"),
            "true",
            "set readonly, too: a writable mount cannot be read-only below",
        ));
    }
    if mount.recursive_read_only && mount.propagation != MountPropagation::Private {
        return Err(SpecError::field(
            field("propagation"),
            format!("{:?}", mount.propagation),
            "use PROPAGATION_PRIVATE with recursive_read_only: a mount that arrives later would be writable",
        ));
    }
    for option in &mount.mount_options {
        if !BIND_OPTIONS.contains(&option.as_str()) {
            return Err(SpecError::field(
                field("mount_options"),
                option,
                "use noexec, nodev or nosuid",
            ));
        }
    }
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return Err(SpecError::field(
            field("uidMappings"),
            format!(
                "{} uid and {} gid mappings",
                mount.uid_mappings.len(),
                mount.gid_mappings.len()
            ),
            "give both or none",
        ));
    }
    for range in mount.uid_mappings.iter().chain(&mount.gid_mappings) {
        let fits = |first: u32| range.length > 0 && first.checked_add(range.length - 1).is_some();
        if !fits(range.host_id) || !fits(range.container_id) {
            return Err(SpecError::field(
                field("uidMappings"),
                format!("{}:{}:{}", range.container_id, range.host_id, range.length),
                "give a length above 0 and end the range at 4294967295 or below",
            ));
        }
    }
    Ok(())
}

fn validate_image_mount(
    field: &dyn Fn(&str) -> String,
    mount: &Requested,
    image: &str,
) -> Result<(), SpecError> {
    text::required(&field("image.image"), image, 4096)?;
    if !mount.host_path.is_empty() {
        return Err(SpecError::field(
            field("host_path"),
            &mount.host_path,
            "leave it empty with an image",
        ));
    }
    if !mount.readonly {
        return Err(SpecError::field(
            field("readonly"),
            "false",
            "set it: images are mounted read-only",
        ));
    }
    if mount.propagation != MountPropagation::Private {
        return Err(SpecError::field(
            field("propagation"),
            format!("{:?}", mount.propagation),
            "use PROPAGATION_PRIVATE with an image",
        ));
    }
    if !mount.image_sub_path.is_empty() {
        text::relative(&field("image_sub_path"), &mount.image_sub_path)?;
    }
    Ok(())
}
