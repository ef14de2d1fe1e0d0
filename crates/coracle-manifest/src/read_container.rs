//! Reading containers.

use crate::config_objects::ConfigObjects;
use crate::container::{Container, Port, Propagation, Protocol, PullPolicy, SubPath, VolumeMount};
use crate::environment::variables;
use crate::fields::{At, Fields};
use crate::pod::{PodSecurity, RestartPolicy};
use crate::probe::{self, Lifecycle, Probes};
use crate::volumes::Volume;
use crate::{names, resources, security};

pub(crate) const PULL: [(&str, PullPolicy); 3] = [
    ("Always", PullPolicy::Always),
    ("IfNotPresent", PullPolicy::IfNotPresent),
    ("Never", PullPolicy::Never),
];

pub(crate) const RESTART: [(&str, RestartPolicy); 3] = [
    ("Always", RestartPolicy::Always),
    ("OnFailure", RestartPolicy::OnFailure),
    ("Never", RestartPolicy::Never),
];

/// What containers of a pod have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) objects: ConfigObjects<'a>,
    pub(crate) security: &'a PodSecurity,
    pub(crate) volumes: &'a [Volume],
    pub(crate) host_network: bool,
    pub(crate) shares_processes: bool,
}

/// The containers under `name`.
pub(crate) fn containers(
    fields: &mut Fields<'_>,
    name: &'static str,
    context: Context<'_>,
    taken: &mut Vec<String>,
) -> Vec<Container> {
    let mut containers = Vec::new();
    for at in fields.get(name).iter().flat_map(At::list) {
        let Some(container) = container(&at, name == "initContainers", context) else {
            continue;
        };
        if taken.contains(&container.name) {
            at.refuse(format!(
                "another container is called {:?}: give each its own name",
                container.name
            ));
        }
        taken.push(container.name.clone());
        containers.push(container);
    }
    containers
}

fn container(at: &At<'_>, is_init: bool, context: Context<'_>) -> Option<Container> {
    let mut fields = at.fields()?;
    let name = fields.required("name").and_then(|at| names::label(&at));
    let image = fields.required("image").and_then(|at| at.text());
    let ports = ports(&mut fields, context.host_network);
    let probes = probe::probes(&mut fields, &ports);
    let lifecycle = fields
        .get("lifecycle")
        .map(|at| probe::lifecycle(&at, &ports))
        .unwrap_or_default();
    let restart_policy = fields.get("restartPolicy").and_then(|at| at.one_of(&RESTART));
    if is_init && restart_policy != Some(RestartPolicy::Always) {
        only_for_sidecars(at, &probes, &lifecycle);
    }
    let pull = fields.get("imagePullPolicy").and_then(|at| at.one_of(&PULL));
    let container = name.zip(image).map(|(name, image)| Container {
        name,
        pull: pull.unwrap_or_else(|| usual_pull(&image)),
        image,
        command: fields.texts("command"),
        args: fields.texts("args"),
        working_dir: fields.text("workingDir"),
        env: variables(&mut fields, &context.objects),
        ports,
        resources: resources::resources(&mut fields),
        mounts: mounts(&mut fields, context.volumes),
        probes,
        lifecycle,
        restart_policy,
        security: security::container(&mut fields, context.security),
        termination_path: termination_path(&mut fields),
        termination_from_log: fields
            .get("terminationMessagePolicy")
            .and_then(|at| at.one_of(&[("File", false), ("FallbackToLogsOnError", true)]))
            .unwrap_or(false),
        stdin: fields.bool("stdin").unwrap_or(false),
        stdin_once: fields.bool("stdinOnce").unwrap_or(false),
        tty: fields.bool("tty").unwrap_or(false),
    });
    if let Some(container) = &container {
        propagation_needs_privilege(at, container);
        if container.stdin {
            let below = fields.get("stdin");
            below
                .iter()
                .for_each(|at| at.ignore("nothing is written to it: the container waits at its first read"));
        }
        if container.lifecycle.stop_signal.is_some() && context.shares_processes {
            at.ignore(
                "a stop signal reaches the container's first process only, whatever shares its processes",
            );
        }
    }
    fields.ignored(
        &["resizePolicy"],
        "a running container is not resized from a manifest",
    );
    fields.refused(
        &["restartPolicyRules"],
        "restarts go by restartPolicy only: take the rules away",
    );
    fields.refused(
        &["volumeDevices"],
        "there are no volumes that are block devices: take hostPath with type BlockDevice",
    );
    container.is_some().then(|| fields.finish());
    container
}

fn only_for_sidecars(at: &At<'_>, probes: &Probes, lifecycle: &Lifecycle) {
    if *probes != Probes::default() || *lifecycle != Lifecycle::default() {
        at.refuse("an init container has no probes and no lifecycle: give it restartPolicy: Always to make it a sidecar");
    }
}

fn propagation_needs_privilege(at: &At<'_>, container: &Container) {
    let both = container
        .mounts
        .iter()
        .any(|mount| mount.propagation == Propagation::Bidirectional);
    if both && !container.security.privileged {
        at.refuse("mountPropagation: Bidirectional needs securityContext.privileged: true");
    }
}

/// As Kubernetes has it: an image that may change is asked for at each start.
fn usual_pull(image: &str) -> PullPolicy {
    let last = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') {
        return PullPolicy::IfNotPresent;
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => PullPolicy::Always,
        Some(_) => PullPolicy::IfNotPresent,
    }
}

fn termination_path(fields: &mut Fields<'_>) -> String {
    let given = fields
        .get("terminationMessagePath")
        .and_then(|at| names::absolute(&at));
    given.unwrap_or_else(|| "/dev/termination-log".to_owned())
}

fn ports(fields: &mut Fields<'_>, host_network: bool) -> Vec<Port> {
    let list = fields.get("ports").map(|at| at.list()).unwrap_or_default();
    list.iter().filter_map(|at| port(at, host_network)).collect()
}

fn port(at: &At<'_>, host_network: bool) -> Option<Port> {
    let mut fields = at.fields()?;
    let name = fields.text("name");
    let container = fields.required("containerPort").and_then(|at| at.port());
    let host = fields
        .get("hostPort")
        .filter(|at| at.node.scalar() != Some("0"))
        .and_then(|at| at.port());
    let host_ip = fields.get("hostIP").and_then(|at| {
        let text = at.text()?;
        if text.is_empty() {
            return None;
        }
        let parsed = text.parse().ok();
        if parsed.is_none() {
            at.refuse(format!("{text:?}: give an address"));
        }
        parsed
    });
    let protocols = [
        ("TCP", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("SCTP", Protocol::Sctp),
    ];
    let protocol = fields
        .get("protocol")
        .map_or(Some(Protocol::Tcp), |at| at.one_of(&protocols));
    fields.finish();
    if host_network && host.is_some() && host != container {
        at.refuse(
            "with hostNetwork the container listens on the node itself: hostPort must equal containerPort",
        );
    }
    Some(Port {
        name,
        container: container?,
        host,
        host_ip,
        protocol: protocol?,
    })
}

fn mounts(fields: &mut Fields<'_>, volumes: &[Volume]) -> Vec<VolumeMount> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for at in fields.get("volumeMounts").iter().flat_map(At::list) {
        let Some(mount) = mount(&at, volumes) else {
            continue;
        };
        if mounts.iter().any(|have| have.path == mount.path) {
            at.refuse(format!(
                "something is mounted at {:?} already: give another mountPath",
                mount.path
            ));
        }
        mounts.push(mount);
    }
    mounts
}

fn mount(at: &At<'_>, volumes: &[Volume]) -> Option<VolumeMount> {
    let mut fields = at.fields()?;
    let volume = fields.required("name").and_then(|at| {
        let name = at.text()?;
        if !volumes.iter().any(|volume| volume.name == name) {
            at.refuse(format!("no volume is called {name:?}: add it under spec.volumes"));
        }
        Some(name)
    });
    let path = fields.required("mountPath").and_then(|at| names::absolute(&at));
    let plain = fields
        .get("subPath")
        .filter(|at| at.node.scalar() != Some(""))
        .map(|at| names::relative(&at));
    let expanded = fields
        .get("subPathExpr")
        .filter(|at| at.node.scalar() != Some(""))
        .map(|at| at.text());
    let sub_path = match (plain, expanded) {
        (None, None) => Some(SubPath::Whole),
        (Some(path), None) => path.map(SubPath::Plain),
        (None, Some(text)) => text.map(SubPath::Expanded),
        (Some(_), Some(_)) => {
            at.refuse("has subPath and subPathExpr: keep one");
            None
        }
    };
    let read_only = fields.bool("readOnly").unwrap_or(false);
    let recursive = fields.get("recursiveReadOnly");
    // IfPossible is possible: recursively read-only mounts are in Linux 5.12, the floor is higher.
    let recursive_read_only = recursive
        .as_ref()
        .and_then(|at| at.one_of(&[("Disabled", false), ("IfPossible", true), ("Enabled", true)]))
        .unwrap_or(false);
    let propagations = [
        ("None", Propagation::None),
        ("HostToContainer", Propagation::HostToContainer),
        ("Bidirectional", Propagation::Bidirectional),
    ];
    let propagation = fields
        .get("mountPropagation")
        .and_then(|at| at.one_of(&propagations))
        .unwrap_or(Propagation::None);
    fields.finish();
    if let Some(at) =
        recursive.filter(|_| recursive_read_only && (!read_only || propagation != Propagation::None))
    {
        at.refuse("needs readOnly: true and no mountPropagation");
    }
    Some(VolumeMount {
        volume: volume?,
        path: path?,
        sub_path: sub_path?,
        read_only,
        recursive_read_only,
        propagation,
    })
}
