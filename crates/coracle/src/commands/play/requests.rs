//! From a resolved pod to CRI's messages, as the kubelet fills them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use coracle_manifest::{
    Container, Facts, Limits, Pod, Propagation, Protocol, SeccompProfile, Selinux, VolumeMount, VolumeSource,
};
use coracle_proto::cri;

use super::facts;
use super::images::Image;
use super::sandbox::Sandbox;
use crate::commands::remove::{GRACE, PRE_STOP};
use crate::commands::run::{LOG_DIRECTORY, MASKED, READONLY, log_directory};

/// A pod sandbox's configuration.
pub(super) fn pod_config(pod: &Pod, facts: &Facts) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: pod.name.clone(),
        uid: facts.uid.clone(),
        namespace: pod.namespace.clone(),
        attempt: 0,
    };
    let log_directory = log_directory(&metadata);
    let mut annotations = pod.annotations.clone();
    annotations.insert(LOG_DIRECTORY.to_owned(), log_directory.clone());
    annotations.insert(GRACE.to_owned(), pod.grace_seconds.to_string());
    let hooked = pod
        .all_containers()
        .filter(|one| one.lifecycle.pre_stop.is_some());
    let hooked: Vec<_> = hooked.map(|one| one.name.as_str()).collect();
    if !hooked.is_empty() {
        annotations.insert(PRE_STOP.to_owned(), hooked.join(", "));
    }
    let mut labels = pod.labels.clone();
    labels.extend(own_labels(pod, facts));
    let resolver = pod.resolver(&facts.resolver);
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.name.clone(),
            uid: facts.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        }),
        hostname: hostname(pod),
        log_directory,
        dns_config: resolver.map(|resolver| cri::DnsConfig {
            servers: resolver.servers,
            searches: resolver.searches,
            options: resolver.options,
        }),
        port_mappings: port_mappings(pod),
        labels,
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(pod_security(pod)),
            sysctls: pod.security.sysctls.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn own_labels(pod: &Pod, facts: &Facts) -> [(String, String); 3] {
    [
        ("io.kubernetes.pod.name".to_owned(), pod.name.clone()),
        ("io.kubernetes.pod.namespace".to_owned(), pod.namespace.clone()),
        ("io.kubernetes.pod.uid".to_owned(), facts.uid.clone()),
    ]
}

fn hostname(pod: &Pod) -> String {
    match pod.full_name() {
        _ if pod.sharing.host_network => String::new(),
        Some(full) if pod.fqdn_as_hostname => full,
        _ => pod.hostname.clone(),
    }
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    if pod.sharing.host_network {
        return Vec::new();
    }
    let ports = pod.all_containers().flat_map(|container| &container.ports);
    let mapping = |port: &coracle_manifest::Port| {
        let protocol = match port.protocol {
            Protocol::Tcp => cri::Protocol::Tcp,
            Protocol::Udp => cri::Protocol::Udp,
            Protocol::Sctp => cri::Protocol::Sctp,
        };
        Some(cri::PortMapping {
            protocol: protocol.into(),
            container_port: port.container.into(),
            host_port: port.host?.into(),
            host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
    };
    ports.filter_map(mapping).collect()
}

fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let sharing = &pod.sharing;
    let node_or = |host: bool, other| if host { cri::NamespaceMode::Node } else { other };
    let processes = if sharing.processes {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node_or(sharing.host_network, cri::NamespaceMode::Pod).into(),
        pid: node_or(sharing.host_pid, processes).into(),
        ipc: node_or(sharing.host_ipc, cri::NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let security = &pod.security;
    security
        .fs_group
        .iter()
        .chain(&security.supplemental_groups)
        .copied()
        .collect()
}

fn groups_policy(pod: &Pod) -> i32 {
    let policy = if pod.security.strict_groups {
        cri::SupplementalGroupsPolicy::Strict
    } else {
        cri::SupplementalGroupsPolicy::Merge
    };
    policy.into()
}

fn pod_security(pod: &Pod) -> cri::LinuxSandboxSecurityContext {
    let security = &pod.security;
    let number = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: security.selinux.as_ref().map(selinux),
        run_as_user: number(security.run_as_user),
        // CRI wants a user with a group; the sandbox itself runs nothing.
        run_as_group: number(security.run_as_group.filter(|_| security.run_as_user.is_some())),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: pod.is_privileged(),
        seccomp: Some(profile(&SeccompProfile::RuntimeDefault)),
        ..Default::default()
    }
}

fn selinux(own: &Selinux) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: own.user.clone(),
        role: own.role.clone(),
        r#type: own.kind.clone(),
        level: own.level.clone(),
    }
}

fn profile(own: &SeccompProfile) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, localhost_ref) = match own {
        SeccompProfile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        SeccompProfile::Unconfined => (ProfileType::Unconfined, String::new()),
        SeccompProfile::Localhost(path) => (ProfileType::Localhost, path.clone()),
    };
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

/// A container's configuration for its start number `attempt`, with the file for its last words.
pub(super) fn container_config(
    sandbox: &Sandbox,
    container: &Container,
    image: &Image,
    attempt: u32,
) -> anyhow::Result<(cri::ContainerConfig, PathBuf)> {
    let (pod, facts) = (&sandbox.pod, &sandbox.facts);
    let environment = pod.environment(container, facts);
    let words = sandbox.storage.words_file(&container.name, attempt)?;
    let mut mounts = mounts(sandbox, container, &environment)?;
    mounts.push(bind(&words, &container.termination_path));
    let mut labels = BTreeMap::from(own_labels(pod, facts));
    labels.insert("io.kubernetes.container.name".to_owned(), container.name.clone());
    let variable = |(key, value): &(String, String)| cri::KeyValue {
        key: key.clone(),
        value: value.as_bytes().to_vec(),
    };
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(cri::ImageSpec {
            image: image.id.clone(),
            user_specified_image: container.image.clone(),
            ..Default::default()
        }),
        command: Pod::words(&container.command, &environment),
        args: Pod::words(&container.args, &environment),
        working_dir: container.working_dir.clone(),
        envs: environment.iter().map(variable).collect(),
        mounts,
        labels,
        annotations: BTreeMap::from([(
            "io.kubernetes.container.restartCount".to_owned(),
            attempt.to_string(),
        )]),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(container, pod.limits(container, facts.memory))),
            security_context: Some(security(pod, container, image)?),
        }),
        stop_signal: stop_signal(container)?,
        ..Default::default()
    };
    Ok((config, words))
}

fn stop_signal(container: &Container) -> anyhow::Result<i32> {
    let Some(name) = &container.lifecycle.stop_signal else {
        return Ok(0);
    };
    // `SIGRTMIN+1` is `SIGRTMINPLUS1` there.
    let wire = name.replace('+', "PLUS").replace('-', "MINUS");
    let signal =
        cri::Signal::from_str_name(&wire).or_else(|| cri::Signal::from_str_name(&format!("SIGNAL_{wire}")));
    signal
        .map(Into::into)
        .with_context(|| format!("lifecycle.stopSignal {name} is no signal: give one such as SIGTERM"))
}

fn resources(container: &Container, limits: Limits) -> cri::LinuxContainerResources {
    let page_size = |bytes: u64| match bytes >> 10 {
        kib if kib % (1 << 20) == 0 => format!("{}GB", kib >> 20),
        kib if kib % (1 << 10) == 0 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    };
    let mut unified = BTreeMap::new();
    if facts::has_unified_cgroups() {
        // All of a container goes when the kernel has to kill in it.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    cri::LinuxContainerResources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory,
        oom_score_adj: limits.oom_score_adj,
        hugepage_limits: container
            .resources
            .hugepages
            .iter()
            .map(|(size, limit)| cri::HugepageLimit {
                page_size: page_size(*size),
                limit: *limit,
            })
            .collect(),
        unified,
        ..Default::default()
    }
}

fn security(
    pod: &Pod,
    container: &Container,
    image: &Image,
) -> anyhow::Result<cri::LinuxContainerSecurityContext> {
    let own = &container.security;
    if own.run_as_non_root && own.run_as_user.is_none() {
        image.must_not_be_root(&container.image)?;
    }
    let user = own.run_as_user.or(image.uid);
    let seccomp = if own.privileged {
        &SeccompProfile::Unconfined
    } else {
        &own.seccomp
    };
    let hidden = |paths: &[&str]| match own.unmasked_proc {
        true => Vec::new(),
        false => paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: own.add.clone(),
            drop_capabilities: own.drop.clone(),
            ..Default::default()
        }),
        privileged: own.privileged,
        namespace_options: Some(namespaces(pod)),
        selinux_options: own.selinux.as_ref().map(selinux),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_username: if user.is_none() {
            image.username.clone()
        } else {
            String::new()
        },
        run_as_group: own.run_as_group.map(|value| cri::Int64Value { value }),
        readonly_rootfs: own.read_only_root,
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_escalation == Some(false),
        masked_paths: hidden(&MASKED),
        readonly_paths: hidden(&READONLY),
        seccomp: Some(profile(seccomp)),
        apparmor: own.apparmor.as_ref().map(profile),
        ..Default::default()
    })
}

fn bind(host: &Path, container: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

fn mounts(
    sandbox: &Sandbox,
    container: &Container,
    environment: &[(String, String)],
) -> anyhow::Result<Vec<cri::Mount>> {
    let mut mounts = Vec::new();
    for (index, wanted) in container.mounts.iter().enumerate() {
        let part = Pod::sub_path(wanted, environment).map_err(|path| {
            anyhow::anyhow!(
                "container {}: the sub path of {} becomes {path:?}: it must be a path below the volume",
                container.name,
                wanted.path
            )
        })?;
        let label = format!("{}-{index}", container.name);
        mounts.push(mount(sandbox, wanted, part, &label)?);
    }
    let has_hosts = container.mounts.iter().any(|mount| mount.path == "/etc/hosts");
    if let Some(hosts) = sandbox.hosts.as_ref().filter(|_| !has_hosts) {
        mounts.push(bind(hosts, "/etc/hosts"));
    }
    Ok(mounts)
}

fn mount(
    sandbox: &Sandbox,
    wanted: &VolumeMount,
    part: Option<String>,
    label: &str,
) -> anyhow::Result<cri::Mount> {
    let volume = sandbox
        .pod
        .volumes
        .iter()
        .find(|volume| volume.name == wanted.volume);
    let volume = volume.with_context(|| format!("there is no volume {:?}", wanted.volume))?;
    let path = match &volume.source {
        VolumeSource::Image { reference, .. } => {
            return Ok(cri::Mount {
                container_path: wanted.path.clone(),
                readonly: true,
                image: Some(cri::ImageSpec {
                    image: reference.clone(),
                    ..Default::default()
                }),
                image_sub_path: part.unwrap_or_default(),
                ..Default::default()
            });
        }
        VolumeSource::HostPath { path, .. } => PathBuf::from(path),
        VolumeSource::EmptyDir { .. } | VolumeSource::Files(_) => sandbox.storage.volume(&volume.name),
    };
    let path = match part {
        Some(part) => sandbox.storage.part(&path, &part, label)?,
        None => path,
    };
    let propagation = match wanted.propagation {
        Propagation::None => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    // Files of ConfigMaps and the like are nobody's to write, as under a kubelet.
    let readonly = wanted.read_only || matches!(volume.source, VolumeSource::Files(_));
    Ok(cri::Mount {
        readonly,
        recursive_read_only: wanted.recursive_read_only,
        propagation: propagation.into(),
        ..bind(&path, &wanted.path)
    })
}
