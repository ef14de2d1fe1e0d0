//! `run`: a container in a pod of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol, RunPodSandboxRequest,
    SecurityProfile, StartContainerRequest, security_profile::ProfileType,
};
use coracle_types::{Kind, Kinded};
use serde_json::json;

use super::engine::{self, Foreground};
use super::signals::Signals;
use super::{exec, find, images, logs, play, reach, remove};
use crate::cli::{Global, Output, Publish, RunArgs};
use crate::terminal::{self, Screen, Status, Trouble};

/// Annotation of pods whose log directory `coracle rm` removes with them.
pub(crate) const LOG_DIRECTORY: &str = "io.coracle.run/log-directory";
/// Where kubelets keep logs, too.
const LOGS: &str = "/var/log/pods";
/// The container's log among those of its pod.
const LOG: &str = "0.log";
/// Namespace of what people run by hand.
const NAMESPACE: &str = "default";

/// Runs a pod by the daemon, or where there is none by an engine of our own that ends with the pod.
pub(crate) async fn run(args: RunArgs, global: &Global, screen: &Screen) -> anyhow::Result<ExitCode> {
    if args.has_manifests() {
        return play::run(&args, global, screen).await;
    }
    goes_with_manifests(&args)?;
    if !args.detach {
        screen.has_one_form("what a container prints is shown as it is", &[])?;
    }
    // From here on an interrupt ends in order what was begun instead of leaving it.
    let mut signals = Signals::listen()?;
    let client = if args.detach || args.keep {
        let client = reach::connect(&global.socket).await;
        Some(client.context("--detach and --keep need a daemon, or the pod would end with this command")?)
    } else {
        reach::daemon(&global.socket).await?
    };
    if let Some(client) = client {
        return run_by(&client, &args, screen, &mut signals).await;
    }
    terminal::remark(format!(
        "no daemon answers at {}: the pod ends with this command",
        global.socket.display()
    ));
    let foreground = Foreground::start().await?;
    let outcome = run_by(foreground.client(), &args, screen, &mut signals).await;
    engine::conclude(outcome, foreground.end().await)
}

/// Looks and pulls; gives the image's name. Nothing stays when it is given up.
async fn prepare(client: &Client, args: &RunArgs, screen: &Screen) -> anyhow::Result<String> {
    if let Some(name) = &args.name {
        must_be_free(client, name).await?;
    }
    images::ensure_meant(client, args.image(), screen).await
}

async fn run_by(
    client: &Client,
    args: &RunArgs,
    screen: &Screen,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let image = tokio::select! {
        prepared = prepare(client, args, screen) => prepared?,
        code = signals.next() => return Ok(code),
    };
    let name = args.name.clone().unwrap_or_else(|| name_of(args.image()));
    let pod = pod_config(&name, args);
    let made = signals.patiently(run_pod(client, &pod)).await;
    let (pod_id, outcome) = match made {
        (Some(made), None) => {
            let pod_id = made?;
            let container = container_config(&pod, args, image);
            let request = CreateContainerRequest {
                pod_sandbox_id: pod_id.clone(),
                config: Some(container),
                sandbox_config: Some(pod),
            };
            let outcome = run_container(client, request, args, screen, signals).await;
            if args.keep || (args.detach && outcome.is_ok() && !signals.came()) {
                return outcome;
            }
            (pod_id, outcome)
        }
        (Some(Ok(pod_id)), Some(code)) => (pod_id, Ok(code)),
        // Nothing was made, or nobody waits for it any more.
        (_, Some(code)) => return Ok(code),
        (None, None) => bail!("the pod was given up without a signal"),
    };
    engine::conclude(outcome, take_away(client, &pod_id).await)
}

/// Makes the pod; its id.
async fn run_pod(client: &Client, pod: &PodSandboxConfig) -> anyhow::Result<String> {
    let request = RunPodSandboxRequest {
        config: Some(pod.clone()),
        runtime_handler: String::new(),
    };
    let reply = client.runtime().run_pod_sandbox(request).await;
    let reply = reply.map_err(ClientError::of("RunPodSandbox")).with_context(|| {
        let name = pod.metadata.as_ref().map_or("", |metadata| &metadata.name);
        format!("cannot run pod {name}")
    })?;
    Ok(reply.into_inner().pod_sandbox_id)
}

/// Removes the pod, unless somebody else has.
async fn take_away(client: &Client, pod_id: &str) -> anyhow::Result<()> {
    match find::pods(client).await?.into_iter().find(|pod| pod.id == pod_id) {
        Some(pod) => remove::remove_pod(client, &pod).await,
        None => Ok(()),
    }
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
    request: CreateContainerRequest,
    args: &RunArgs,
    screen: &Screen,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let logs = request.sandbox_config.as_ref();
    let logs = logs.map_or("", |pod| pod.log_directory.as_str());
    let log = Path::new(logs).join(LOG);
    let pod_id = request.pod_sandbox_id.clone();
    // Given up, it goes with its pod: a removal waits for what is under way there.
    let id = tokio::select! {
        started = start(client, request) => started.map_err(|error| cannot_start(error, args))?,
        code = signals.next() => return Ok(code),
    };
    if args.detach {
        tell_running(&id, &pod_id, screen)?;
        return Ok(ExitCode::SUCCESS);
    }
    let followed = logs::follow(client, &id, &log);
    tokio::pin!(followed);
    let code = tokio::select! {
        ended = &mut followed => return Ok(exec::exit_code(ended?.exit_code)),
        code = signals.next() => code,
    };
    terminal::remark("stopping; once more stops at once");
    // What it still says is shown.
    let stopped = async {
        remove::stop_surely(client, &id, remove::TIMEOUT).await?;
        followed.await
    };
    tokio::select! {
        stopped = stopped => stopped.map(|_| code),
        _ = signals.next() => {
            remove::stop_surely(client, &id, 0).await?;
            Ok(code)
        }
    }
}

/// What `--detach` leaves behind.
fn tell_running(id: &str, pod_id: &str, screen: &Screen) -> anyhow::Result<()> {
    match screen.output {
        Output::Json | Output::Yaml => screen.value(&json!({ "container": id, "pod": pod_id })),
        Output::Name => Ok(screen.line(format!("container/{id}"))?),
        Output::Table | Output::Wide => Ok(screen.line(id)?),
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

fn container_config(pod: &PodSandboxConfig, args: &RunArgs, image: String) -> ContainerConfig {
    let envs = args.env.iter().map(|variable| KeyValue {
        key: variable.name.clone(),
        value: variable.value.as_bytes().to_vec(),
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
    ContainerConfig {
        metadata: Some(ContainerMetadata { name, attempt: 0 }),
        image: Some(ImageSpec {
            image,
            ..ImageSpec::default()
        }),
        // A command replaces the image's entrypoint and arguments, as it does under Kubernetes.
        command: args.command.clone(),
        working_dir: args.workdir.clone(),
        envs: envs.collect(),
        log_path: LOG.to_owned(),
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
    }
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
    use crate::terminal::forms::uncut_forms;

    #[test]
    fn what_runs_detached_in_every_form() {
        insta::assert_snapshot!(uncut_forms(|screen| tell_running("c1", "a1", screen)));
    }

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
