//! Namespaces of a container: the pod's by path, its own, or the node's by absence.

use std::path::Path;

use coracle_types::security::{IdMapping, NamespaceMode, NamespaceOptions, UserNamespace};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
};

use crate::error::SpecError;
use crate::host::CgroupVersion;
use crate::input::ContainerInput;

const FIELD: &str = "linux.security_context.namespace_options";

/// The pod's user namespace if it has one of its own.
pub(crate) fn user_namespace(options: &NamespaceOptions) -> Option<&UserNamespace> {
    options
        .user
        .as_ref()
        .filter(|user| user.mode == NamespaceMode::Pod)
}

/// The namespaces to make or join. Network, IPC and UTS are the pod's business: what is absent there
/// is the node's. A private cgroup namespace hides the hierarchy above the container on cgroup v2;
/// v1 and privileged containers see the node's, as with containerd.
pub(crate) fn namespaces(input: &ContainerInput<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    agree(input)?;
    let pod = &input.pod.security.namespaces;
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    if let Some(joined) = pid(input)? {
        namespaces.push(joined);
    }
    if pod.network != NamespaceMode::Node {
        let netns = input.paths.netns.as_deref();
        namespaces.push(namespace(
            LinuxNamespaceType::Network,
            Some(pinned(netns, "network")?),
        ));
        namespaces.push(namespace(LinuxNamespaceType::Uts, input.paths.uts.as_deref()));
    }
    if pod.ipc != NamespaceMode::Node {
        let ipc = input.paths.ipc.as_deref();
        namespaces.push(namespace(LinuxNamespaceType::Ipc, Some(pinned(ipc, "ipc")?)));
    }
    if user_namespace(pod).is_some() {
        let user = input.paths.user.as_deref();
        namespaces.push(namespace(LinuxNamespaceType::User, Some(pinned(user, "user")?)));
    }
    if has_cgroup_namespace(input) {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    Ok(namespaces)
}

/// Whether the container gets a cgroup namespace of its own.
pub(crate) fn has_cgroup_namespace(input: &ContainerInput<'_>) -> bool {
    input.host.cgroup == CgroupVersion::V2 && !input.container.security.privileged
}

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespaceBuilder::default()
        .typ(kind)
        .build()
        .expect("every field has a default");
    namespace.set_path(path.map(Path::to_path_buf));
    namespace
}

fn pinned<'a>(path: Option<&'a Path>, kind: &str) -> Result<&'a Path, SpecError> {
    path.ok_or_else(|| {
        SpecError::unsupported(
            format!("{FIELD}.{kind}"),
            "POD",
            format!("the pod has no {kind} namespace to join; make the pod sandbox anew"),
        )
    })
}

fn pid(input: &ContainerInput<'_>) -> Result<Option<LinuxNamespace>, SpecError> {
    let pod = input.pod.security.namespaces.pid;
    let path = input.paths.pid.as_deref();
    match input.container.security.namespaces.pid {
        NamespaceMode::Container => Ok(Some(namespace(LinuxNamespaceType::Pid, None))),
        NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod if pod == NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => Ok(Some(namespace(
            LinuxNamespaceType::Pid,
            Some(pinned(path, "pid")?),
        ))),
        NamespaceMode::Target => {
            let path = path.ok_or_else(|| {
                SpecError::unsupported(
                    format!("{FIELD}.target_id"),
                    &input.container.security.namespaces.target_id,
                    "the target container does not run in this pod; start it first",
                )
            })?;
            Ok(Some(namespace(LinuxNamespaceType::Pid, Some(path))))
        }
    }
}

/// A container may not leave the pod for the node: CRI gives both the same modes, and a difference
/// would otherwise be overlooked in silence.
fn agree(input: &ContainerInput<'_>) -> Result<(), SpecError> {
    let pod = &input.pod.security.namespaces;
    let own = &input.container.security.namespaces;
    for (name, asked, given) in [
        ("network", own.network, pod.network),
        ("pid", own.pid, pod.pid),
        ("ipc", own.ipc, pod.ipc),
    ] {
        if asked == NamespaceMode::Node && given != NamespaceMode::Node {
            return Err(SpecError::field(
                format!("{FIELD}.{name}"),
                "NODE",
                "the pod does not share this namespace with the node; ask for it in the pod sandbox, too",
            ));
        }
    }
    let (own, pod) = (user_namespace(own), user_namespace(pod));
    let same = match (own, pod) {
        (None, None) => true,
        (Some(own), Some(pod)) => own.uids == pod.uids && own.gids == pod.gids,
        _ => false,
    };
    if same {
        return Ok(());
    }
    Err(SpecError::field(
        format!("{FIELD}.userns_options"),
        if own.is_some() { "POD" } else { "NODE" },
        "give the container the same user namespace mode and mappings as its pod",
    ))
}

/// Mappings in the runtime specification's form.
pub(crate) fn mappings(from: &[IdMapping]) -> Vec<LinuxIdMapping> {
    from.iter()
        .map(|mapping| {
            LinuxIdMappingBuilder::default()
                .host_id(mapping.host_id)
                .container_id(mapping.container_id)
                .size(mapping.length)
                .build()
                .expect("every field of the builder has a default")
        })
        .collect()
}

/// Modes that CRI allows, and mappings that the kernel takes. `sandbox` is a pod, which has no target.
pub(crate) fn validate(options: &NamespaceOptions, owner: Owner) -> Result<(), SpecError> {
    for (name, mode) in [("network", options.network), ("ipc", options.ipc)] {
        if matches!(mode, NamespaceMode::Target) {
            return Err(SpecError::field(
                format!("{FIELD}.{name}"),
                "TARGET",
                "use POD or NODE",
            ));
        }
    }
    match (options.pid, owner) {
        (NamespaceMode::Target, Owner::Pod) => {
            return Err(SpecError::field(
                format!("{FIELD}.pid"),
                "TARGET",
                "use POD, CONTAINER or NODE",
            ));
        }
        (NamespaceMode::Target, Owner::Container) if options.target_id.is_empty() => {
            return Err(SpecError::field(
                format!("{FIELD}.target_id"),
                "",
                "name the target container",
            ));
        }
        _ => {}
    }
    let Some(user) = &options.user else { return Ok(()) };
    match user.mode {
        NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => Ok(()),
        NamespaceMode::Node => Err(SpecError::field(
            format!("{FIELD}.userns_options.mode"),
            "NODE",
            "leave out the mappings, or use POD",
        )),
        NamespaceMode::Pod => {
            validate_mapping(&format!("{FIELD}.userns_options.uids"), &user.uids)?;
            validate_mapping(&format!("{FIELD}.userns_options.gids"), &user.gids)
        }
        mode => Err(SpecError::field(
            format!("{FIELD}.userns_options.mode"),
            format!("{mode:?}"),
            "use POD or NODE",
        )),
    }
}

/// Whose namespace options are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

/// One range that begins with root inside, as CRI's clients expect it to be enforced.
fn validate_mapping(field: &str, mappings: &[IdMapping]) -> Result<(), SpecError> {
    let [mapping] = mappings else {
        return Err(SpecError::field(
            field,
            format!("{} mappings", mappings.len()),
            "give exactly one mapping",
        ));
    };
    let shown = format!("{}:{}:{}", mapping.container_id, mapping.host_id, mapping.length);
    if mapping.container_id != 0 {
        return Err(SpecError::field(
            field,
            shown,
            "map container id 0: a container needs its root",
        ));
    }
    if mapping.length == 0 {
        return Err(SpecError::field(field, shown, "give a length above 0"));
    }
    // 2^32-1 is no id: it means "leave as it is" to chown(2) and setresuid(2).
    if mapping
        .host_id
        .checked_add(mapping.length - 1)
        .is_none_or(|last| last == u32::MAX)
    {
        return Err(SpecError::field(field, shown, "end the range below 4294967295"));
    }
    Ok(())
}
