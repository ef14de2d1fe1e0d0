//! The whole specification of a container, put together from its parts.

use std::path::PathBuf;

use coracle_types::security::NamespaceMode;
use oci_spec::runtime::{Capabilities, Linux, LinuxBuilder, RootBuilder, Spec, SpecBuilder};

use crate::error::SpecError;
use crate::input::ContainerInput;
use crate::labels::ProcessLabels;
use crate::namespaces::{mappings, user_namespace};
use crate::{annotations, devices, environment, labels, mounts, namespaces, process, resources, seccomp};

/// The version of the runtime specification that is followed: idmapped and recursively read-only
/// mounts are in it.
const OCI_VERSION: &str = "1.2.1";

/// Makes the OCI runtime specification of a container, as containerd's and CRI-O's would be. Blocking:
/// it may read a seccomp profile and look at device nodes.
///
/// # Errors
/// [`SpecError`], naming field, value and remedy, when something asked for cannot be had.
pub fn container_spec(input: &ContainerInput<'_>) -> Result<Spec, SpecError> {
    allowed(input)?;
    let environment = environment::environment(input)?;
    let labels = labels::labels(input)?;
    let process = process::container_process(input, &environment, &labels)?;
    let bounding = process
        .capabilities()
        .as_ref()
        .and_then(|sets| sets.bounding().clone())
        .unwrap_or_default();
    let mounts = mounts::mounts(input)?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(input.container.security.readonly_rootfs)
        .build()
        .expect("every field of the builder has a default");
    let linux = linux(input, &labels, &bounding, mounts.rootfs_propagation)?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(process)
        .mounts(mounts.list)
        .annotations(annotations::annotations(input, &environment))
        .linux(linux)
        .build()
        .expect("every field of the builder has a default");
    spec.set_hostname(hostname(input));
    Ok(spec)
}

/// A UTS namespace that is joined has its name already; one that is made gets the pod's.
fn hostname(input: &ContainerInput<'_>) -> Option<String> {
    let makes_one = input.pod.security.namespaces.network != NamespaceMode::Node && input.paths.uts.is_none();
    Some(input.pod.hostname.clone()).filter(|name| makes_one && !name.is_empty())
}

fn linux(
    input: &ContainerInput<'_>,
    labels: &ProcessLabels,
    bounding: &Capabilities,
    rootfs_propagation: Option<String>,
) -> Result<Linux, SpecError> {
    let security = &input.container.security;
    let devices = devices::devices(input)?;
    let mut resources =
        resources::linux_resources(&input.container.resources, input.defaults.pids_limit, input.host)?;
    resources.set_devices(Some(devices.rules));
    let (masked, readonly) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (security.masked_paths.clone(), security.readonly_paths.clone())
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces::namespaces(input)?)
        .resources(resources)
        .cgroups_path(PathBuf::from(input.cgroup_path))
        .devices(devices.nodes)
        .masked_paths(masked)
        .readonly_paths(readonly)
        .build()
        .expect("every field of the builder has a default");
    linux.set_seccomp(seccomp::container_seccomp(input, bounding)?);
    linux.set_mount_label(labels.mount.clone());
    linux.set_rootfs_propagation(rootfs_propagation);
    if let Some(user) = user_namespace(&input.pod.security.namespaces) {
        linux.set_uid_mappings(Some(mappings(&user.uids)));
        linux.set_gid_mappings(Some(mappings(&user.gids)));
    }
    Ok(linux)
}

/// What only shows when pod, container, user and handler are seen together.
fn allowed(input: &ContainerInput<'_>) -> Result<(), SpecError> {
    if input.container.security.privileged && !input.pod.security.privileged {
        return Err(SpecError::field(
            "linux.security_context.privileged",
            "true",
            "the pod sandbox was not made for privileged containers; make it with privileged, too",
        ));
    }
    if let Some(name) = input.container.cdi_devices.first() {
        return Err(SpecError::unsupported(
            "CDI_devices",
            name,
            "this runtime does not resolve CDI devices yet; name the device nodes instead",
        ));
    }
    let Some(user) = user_namespace(&input.pod.security.namespaces) else {
        return Ok(());
    };
    let mapped = |ranges: &[coracle_types::security::IdMapping], id: u32| {
        ranges.iter().any(|range| {
            id.checked_sub(range.container_id)
                .is_some_and(|at| at < range.length)
        })
    };
    if !mapped(&user.uids, input.user.uid) {
        return Err(unmapped("user", input.user.uid));
    }
    match input
        .user
        .additional_gids
        .iter()
        .chain([&input.user.gid])
        .find(|gid| !mapped(&user.gids, **gid))
    {
        Some(gid) => Err(unmapped("group", *gid)),
        None => Ok(()),
    }
}

fn unmapped(what: &str, id: u32) -> SpecError {
    SpecError::field(
        format!("{what} id of the container"),
        id.to_string(),
        "it is not mapped in the pod's user namespace; use an id inside the mapping or hostUsers: true",
    )
}
