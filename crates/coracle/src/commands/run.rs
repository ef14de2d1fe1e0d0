//! `run`: a container in a pod of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol, RunPodSandboxRequest,
    SecurityProfile, StartContainerRequest, security_profile::ProfileType,
};
use coracle_types::{Kind, Kinded};
use tokio::signal::unix::{SignalKind, signal};

use super::engine::Foreground;
use super::{exec, find, images, logs, play, reach, remove};
use crate::cli::{Global, Publish, RunArgs};
use crate::terminal::{self, Screen, Status, Trouble};

/// Annotation of pods whose log directory `coracle rm` removes with them.
pub(crate) const LOG_DIRECTORY: &str = "io.coracle.run/log-directory";
/// Where kubelets keep logs, too.
const LOGS: &str = "/var/log/pods";
/// Namespace of what people run by hand.
const NAMESPACE: &str = "default";

/// Runs a pod by the daemon, or where there is none by an engine of our own that ends with the pod.
pub(crate) async fn run(args: RunArgs, global: &Global, screen: &Screen) -> anyhow::Result<ExitCode> {
    if args.has_manifests() {
        return play::run(&args, global, screen).await;
    }
    goes_with_manifests(&args)?;
    if let Ok(client) = Client::connect(&global.socket).await {
        return run_by(&client, &args, screen).await;
    }
    if args.detach || args.keep {
        // Says why, and how to start it.
        reach::connect(&global.socket)
            .await
            .context("--detach and --keep need a daemon, or the pod would end with this command")?;
    }
    terminal::remark(format!(
        "no daemon answers at {}: the pod ends with this command",
        global.socket.display()
    ));
    let foreground = Foreground::start().await?;
    let outcome = run_by(foreground.client(), &args, screen).await;
    foreground.end().await?;
    outcome
}

async fn run_by(client: &Client, args: &RunArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.name {
        must_be_free(client, name).await?;
    }
    images::ensure(client, args.image(), screen).await?;
    let name = args.name.clone().unwrap_or_else(|| name_of(args.image()));
    let pod = pod_config(&name, args);
    let logs = PathBuf::from(&pod.log_directory);
    let request = RunPodSandboxRequest {
        config: Some(pod.clone()),
        runtime_handler: String::new(),
    };
    let reply = client
        .runtime()
        .run_pod_sandbox(request)
        .await
        .map_err(ClientError::of("RunPodSandbox"))
        .with_context(|| format!("cannot run pod {name}"))?;
    let pod_id = reply.into_inner().pod_sandbox_id;
    let outcome = run_container(client, &pod_id, pod, args, &logs).await;
    if args.keep || (args.detach && outcome.is_ok()) {
        return outcome;
    }
    let made = find::pods(client).await?.into_iter().find(|pod| pod.id == pod_id);
    if let Some(pod) = made {
        remove::remove_pod(client, &pod).await?;
    }
    outcome
}

/// One image is run, and options for manifests say nothing of it.
fn goes_with_manifests(args: &RunArgs) -> anyhow::Result<()> {
    let given = &args.manifest;
    let option = [
        (!given.configmap.is_empty(), "--configmap"),
        (given.strict, "--strict"),
        (given.check, "--check"),
        (given.replace, "--replace"),
    ];
    let trouble = if let Some((_, option)) = option.iter().find(|(said, _)| *said) {
        Trouble::new(format!(
            "{option} goes with manifests, and {} is taken for an image",
            args.image()
        ))
        .next("name the manifest with --file")
    } else if args.what.len() > 1 {
        Trouble::new(format!(
            "{} images are given, and one is run at a time",
            args.what.len()
        ))
        .next("put the command behind --, as in `coracle run busybox -- echo hello`")
    } else {
        return Ok(());
    };
    Err(trouble.status(Status::Usage).into())
}

/// CRI tells pods of one name apart by their uid; people do not.
async fn must_be_free(client: &Client, name: &str) -> anyhow::Result<()> {
    let pods = find::pods(client).await?;
    let taken = pods
        .iter()
        .find(|pod| find::pod_name(pod) == name && find::pod_namespace(pod) == NAMESPACE);
    let Some(pod) = taken else {
        return Ok(());
    };
    let id = find::short(&pod.id);
    Err(Trouble::new(format!(
        "--name {name}: pod {id} has this name and is {}",
        find::pod_state(pod)
    ))
    .next(format!("remove that one: coracle rm pod/{id}"))
    .next("or give this one another name, or none")
    .status(Status::NotRun)
    .into())
}

async fn run_container(
    client: &Client,
    pod_id: &str,
    pod: PodSandboxConfig,
    args: &RunArgs,
    logs: &Path,
) -> anyhow::Result<ExitCode> {
    // From here on an interrupt ends the pod in order instead of leaving it.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_id.to_owned(),
        config: Some(container_config(&pod, args)?),
        sandbox_config: Some(pod),
    };
    let id = start(client, request)
        .await
        .map_err(|error| cannot_start(error, args))?;
    if args.detach {
        terminal::line(&id);
        return Ok(ExitCode::SUCCESS);
    }
    let log = logs.join("0.log");
    tokio::select! {
        ended = logs::follow(client, &id, &log) => Ok(exec::exit_code(ended?.exit_code)),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

/// Makes and starts the container; its id.
async fn start(client: &Client, request: CreateContainerRequest) -> Result<String, ClientError> {
    let reply = client
        .runtime()
        .create_container(request)
        .await
        .map_err(ClientError::of("CreateContainer"))?;
    let id = reply.into_inner().container_id;
    let request = StartContainerRequest {
        container_id: id.clone(),
    };
    client
        .runtime()
        .start_container(request)
        .await
        .map_err(ClientError::of("StartContainer"))?;
    Ok(id)
}

/// What was to run, and where to look when it is not there.
fn cannot_start(error: ClientError, args: &RunArgs) -> anyhow::Error {
    let image = args.image();
    let what = args.command.first().map_or_else(
        || format!("cannot run {image}"),
        |command| format!("cannot run {command:?} in {image}"),
    );
    let mut trouble = Trouble::new(what);
    if error.kind() == Kind::NotFound {
        trouble = trouble.next(format!("what is there: coracle run {image} -- ls /bin"));
    }
    anyhow::Error::new(error).context(trouble)
}

/// Where the logs of a pod lie that `coracle run` makes: where a kubelet would have them.
pub(crate) fn log_directory(pod: &PodSandboxMetadata) -> String {
    format!("{LOGS}/{}_{}_{}", pod.namespace, pod.name, pod.uid)
}

fn pod_config(name: &str, args: &RunArgs) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: coracle_types::PodSandboxId::generate().short().to_owned(),
        namespace: NAMESPACE.to_owned(),
        attempt: 0,
    };
    let log_directory = log_directory(&metadata);
    let network = if args.host_network {
        NamespaceMode::Node
    } else {
        NamespaceMode::Pod
    };
    let namespace_options = NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    };
    PodSandboxConfig {
        metadata: Some(metadata),
        hostname: if args.host_network {
            String::new()
        } else {
            name.to_owned()
        },
        annotations: BTreeMap::from([(LOG_DIRECTORY.to_owned(), log_directory.clone())]),
        log_directory,
        port_mappings: args.publish.iter().map(port_mapping).collect(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespace_options),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

fn port_mapping(publish: &Publish) -> PortMapping {
    let protocol = if publish.udp { Protocol::Udp } else { Protocol::Tcp };
    PortMapping {
        protocol: protocol.into(),
        container_port: i32::from(publish.pod_port),
        host_port: i32::from(publish.host_port),
        host_ip: publish.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn container_config(pod: &PodSandboxConfig, args: &RunArgs) -> anyhow::Result<ContainerConfig> {
    let envs = args.env.iter().map(|variable| {
        let (key, value) = variable
            .split_once('=')
            .with_context(|| format!("--env {variable}: write NAME=VALUE"))?;
        Ok(KeyValue {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
        })
    });
    let name = pod
        .metadata
        .as_ref()
        .map(|metadata| metadata.name.clone())
        .unwrap_or_default();
    let namespaces = pod
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name, attempt: 0 }),
        image: Some(ImageSpec {
            image: args.image().to_owned(),
            ..ImageSpec::default()
        }),
        // A command replaces the image's entrypoint and arguments, as it does under Kubernetes.
        command: args.command.clone(),
        working_dir: args.workdir.clone(),
        envs: envs.collect::<anyhow::Result<_>>()?,
        log_path: "0.log".to_owned(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: namespaces,
                seccomp: Some(SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault.into(),
                    localhost_ref: String::new(),
                }),
                masked_paths: MASKED.map(str::to_owned).to_vec(),
                readonly_paths: READONLY.map(str::to_owned).to_vec(),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    })
}

/// What the kubelet masks in a container with the default proc mount.
pub(super) const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What it makes read-only.
pub(super) const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// `registry.example/team/app:1.2` is `app`, made fit for a host name, with digits that tell two apart.
fn name_of(image: &str) -> String {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let app = last.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let plain: String = app
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let unique = coracle_types::PodSandboxId::generate();
    format!("{}-{}", plain.trim_matches('-'), &unique.as_str()[..5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_made_from_images_are_host_names() {
        for image in [
            "busybox",
            "registry.example:5000/team/My_App:1.2",
            "a/b@sha256:00",
        ] {
            let name = name_of(image);
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
        assert!(name_of("registry.example:5000/team/My_App:1.2").starts_with("my-app-"));
    }
}
