//! One pod's shim: its calls, in the project's own types.

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, KillRequest, Mount, StartRequest, StatsRequest, UpdateTaskRequest,
};
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
};
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::TaskClient;
use coracle_proto::shim_ext::{
    CGROUP2_METRICS, ContainerExit, ContainerStatusRequest, IdMapping, LINUX_RESOURCES, LOG_SCHEME,
    NamespacePin, RemoveRemainsRequest, ReopenLogRequest, SANDBOX_OPTIONS, STDIN_PIPE, SandboxOptions,
    ShimClient, StandInRequest, WaitContainerRequest, container_status_response, namespace_pin,
};
use coracle_types::container::Exit;
use coracle_types::security::IdMapping as Mapping;
use coracle_types::signal::Signal;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind, PodSandboxId};
use oci_spec::runtime::LinuxResources;
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message, MessageField};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::Context;

use crate::connection::Watched;
use crate::error::Error;
use crate::patience::{Limit, Patience};
use crate::requests::{
    KillScope, NamespaceRequest, SandboxCreated, SandboxRequest, TaskCreate, TaskState, TaskStats,
};
use crate::shims::Shims;

/// Connection to a pod's shim; clones share it.
#[derive(Clone)]
pub struct Shim(pub(crate) Arc<Connected>);

pub(crate) struct Connected {
    pub(crate) pod: PodSandboxId,
    task: TaskClient,
    sandbox: SandboxClient,
    pub(crate) extension: ShimClient,
    ended: watch::Receiver<bool>,
    /// The pod's directory, and who can end a shim that does not answer.
    pub(crate) state_dir: PathBuf,
    pub(crate) shims: Weak<Shims>,
    pub(crate) patience: Arc<Patience>,
}

/// A shim that may be forgotten meanwhile.
#[derive(Debug)]
pub(crate) struct WeakShim(Weak<Connected>);

impl WeakShim {
    pub(crate) fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub(crate) fn upgrade(&self) -> Option<Shim> {
        self.0.upgrade().map(Shim)
    }
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected")
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shim({})", self.0.pod)
    }
}

impl Shim {
    pub(crate) async fn connect(
        pod: &PodSandboxId,
        state_dir: &Path,
        shims: &Arc<Shims>,
    ) -> Result<Self, Error> {
        let socket = &state_dir.join("shim.sock");
        let stream = connect(socket).await.map_err(|source| Error::Connect {
            socket: socket.to_owned(),
            source,
        })?;
        let (stream, ended) = Watched::new(stream);
        let client = Client::new(Socket::new(stream));
        Ok(Self(Arc::new(Connected {
            pod: pod.clone(),
            task: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client.clone()),
            extension: ShimClient::new(client),
            ended,
            state_dir: state_dir.to_owned(),
            shims: Arc::downgrade(shims),
            patience: Arc::clone(shims.patience()),
        })))
    }

    pub(crate) fn downgrade(&self) -> WeakShim {
        WeakShim(Arc::downgrade(&self.0))
    }

    /// Whether it answers within `limit`.
    pub(crate) async fn ping(&self, limit: Limit) -> Result<(), Error> {
        let mut request = PingRequest::new();
        request.sandbox_id = self.0.pod.to_string();
        self.answered(
            "PingSandbox",
            limit,
            self.0.sandbox.ping_sandbox(unbounded(), &request),
        )
        .await?;
        Ok(())
    }

    /// Resolves when the shim is gone.
    pub async fn closed(&self) {
        // An error means that the connection's task ended: gone as well.
        let _ = self.0.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Makes the pod's namespaces, its init and its shared memory.
    ///
    /// # Errors
    /// What the kernel refused; nothing is left.
    pub async fn create_sandbox(&self, request: SandboxRequest) -> Result<SandboxCreated, Error> {
        let mut create = CreateSandboxRequest::new();
        create.sandbox_id = self.0.pod.to_string();
        create.netns_path = request
            .netns
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        create.options = packed(SANDBOX_OPTIONS, &sandbox_options(&request));
        self.answered(
            "CreateSandbox",
            Limit::Operation,
            self.0.sandbox.create_sandbox(unbounded(), &create),
        )
        .await?;
        let mut start = StartSandboxRequest::new();
        start.sandbox_id = self.0.pod.to_string();
        let started = self
            .answered(
                "StartSandbox",
                Limit::Operation,
                self.0.sandbox.start_sandbox(unbounded(), &start),
            )
            .await?;
        Ok(SandboxCreated {
            init: (started.pid != 0).then_some(started.pid),
        })
    }

    /// Ends the pod's init and unpins its namespaces and shared memory. Idempotent.
    ///
    /// # Errors
    /// What would not go.
    pub async fn stop_sandbox(&self) -> Result<(), Error> {
        let mut request = StopSandboxRequest::new();
        request.sandbox_id = self.0.pod.to_string();
        self.answered(
            "StopSandbox",
            Limit::Operation,
            self.0.sandbox.stop_sandbox(unbounded(), &request),
        )
        .await?;
        Ok(())
    }

    /// Has the shim leave with its socket, its state file and what it left with the keeper; returns when it
    /// is gone.
    ///
    /// # Errors
    /// When it would not.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let mut request = ShutdownSandboxRequest::new();
        request.sandbox_id = self.0.pod.to_string();
        match self
            .answered(
                "ShutdownSandbox",
                Limit::Operation,
                self.0.sandbox.shutdown_sandbox(unbounded(), &request),
            )
            .await
        {
            // It may leave before the answer does.
            Err(Error::Call {
                kind: Kind::Unavailable,
                ..
            })
            | Ok(_) => {}
            Err(error) => return Err(error),
        }
        let limit = self.0.patience.of(Limit::Operation);
        match timeout(limit, self.closed()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.give_up("ShutdownSandbox", limit).await),
        }
    }

    /// Takes away by path what a shim of the pod left of which no state file tells: the cgroups with all
    /// that runs in them, the pins of namespaces in `pins`, the shared memory at `shm`. What the shim does
    /// know is left alone; what is gone is no error.
    ///
    /// # Errors
    /// What would not go.
    pub async fn remove_remains(
        &self,
        cgroups: Vec<String>,
        pins: Option<&Path>,
        shm: Option<&Path>,
    ) -> Result<(), Error> {
        let text = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
        let mut request = RemoveRemainsRequest::new();
        request.cgroups = cgroups;
        request.pins = text(pins);
        request.shm = text(shm);
        self.answered(
            "RemoveRemains",
            Limit::Operation,
            self.0.extension.remove_remains(unbounded(), &request),
        )
        .await?;
        Ok(())
    }

    /// Makes a process that stands in for the first one of a container or of the pod's init until that is made; its
    /// number in the shim's PID namespace.
    ///
    /// # Errors
    /// When no process can be made; `Unimplemented` from a shim of an older program.
    pub async fn begin_stand_in(&self, id: &str) -> Result<u32, Error> {
        let mut request = StandInRequest::new();
        request.id = id.to_owned();
        let began = self
            .answered(
                "BeginStandIn",
                Limit::Call,
                self.0.extension.begin_stand_in(unbounded(), &request),
            )
            .await?;
        Ok(began.pid.unsigned_abs())
    }

    /// Has it leave, because what it stands in for will not be made.
    ///
    /// # Errors
    /// When the shim is gone, and the process with it.
    pub async fn end_stand_in(&self, id: &str) -> Result<(), Error> {
        let mut request = StandInRequest::new();
        request.id = id.to_owned();
        self.answered(
            "EndStandIn",
            Limit::Call,
            self.0.extension.end_stand_in(unbounded(), &request),
        )
        .await?;
        Ok(())
    }

    /// Makes a container: its first process is set up and waits.
    ///
    /// # Errors
    /// What could not be set up, with the step that failed; nothing is left.
    pub async fn create(&self, request: TaskCreate) -> Result<u32, Error> {
        let mut create = CreateTaskRequest::new();
        create.id = request.id.to_string();
        create.bundle = request.bundle.display().to_string();
        create.rootfs = vec![overlay(&request)];
        create.terminal = request.terminal;
        create.stdin = if request.stdin {
            STDIN_PIPE.to_owned()
        } else {
            String::new()
        };
        if let Some(log) = &request.log {
            create.stdout = format!("{LOG_SCHEME}{}", log.display());
            create.stderr.clone_from(&create.stdout);
        }
        let created = self
            .answered(
                "Create",
                Limit::Operation,
                self.0.task.create(unbounded(), &create),
            )
            .await?;
        Ok(created.pid)
    }

    /// Lets a container's first process become its program.
    ///
    /// # Errors
    /// What kept the program from running: not there, not executable, for another machine.
    pub async fn start(&self, id: &ContainerId) -> Result<u32, Error> {
        let mut request = StartRequest::new();
        request.id = id.to_string();
        let started = self
            .answered(
                "Start",
                Limit::Operation,
                self.0.task.start(unbounded(), &request),
            )
            .await?;
        Ok(started.pid)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `NotFound` when the shim does not know the container, `FailedPrecondition` when it has ended.
    pub async fn kill(&self, id: &ContainerId, signal: Signal, scope: KillScope) -> Result<(), Error> {
        let mut request = KillRequest::new();
        request.id = id.to_string();
        request.signal = signal.number().unsigned_abs();
        request.all = scope == KillScope::All;
        self.answered("Kill", Limit::Call, self.0.task.kill(unbounded(), &request))
            .await?;
        Ok(())
    }

    /// Resolves when the container's first process has ended and its log is complete.
    ///
    /// # Errors
    /// `Unavailable` when the shim went away meanwhile.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit, Error> {
        let mut request = WaitContainerRequest::new();
        request.container_id = id.to_string();
        let of = Error::of("WaitContainer");
        let reply = self
            .0
            .extension
            .wait_container(unbounded(), &request)
            .await
            .map_err(of)?;
        Ok(exit(&reply.exit))
    }

    /// Removes an ended container's kernel objects.
    ///
    /// # Errors
    /// `NotFound` when the shim does not know it, `FailedPrecondition` while it runs.
    pub async fn delete(&self, id: &ContainerId) -> Result<(), Error> {
        let mut request = DeleteRequest::new();
        request.id = id.to_string();
        self.answered(
            "Delete",
            Limit::Operation,
            self.0.task.delete(unbounded(), &request),
        )
        .await?;
        Ok(())
    }

    /// What a container is doing.
    ///
    /// # Errors
    /// `NotFound` when the shim does not know it.
    pub async fn state(&self, id: &ContainerId) -> Result<TaskState, Error> {
        use container_status_response::State;

        let mut request = ContainerStatusRequest::new();
        request.container_id = id.to_string();
        let status = self
            .answered(
                "ContainerStatus",
                Limit::Call,
                self.0.extension.container_status(unbounded(), &request),
            )
            .await?;
        match status.state.enum_value_or(State::UNKNOWN) {
            State::CREATED => Ok(TaskState::Created),
            State::RUNNING | State::PAUSED => Ok(TaskState::Running),
            State::EXITED => Ok(TaskState::Exited(exit(&status.exit))),
            State::UNKNOWN => Err(Error::Call {
                call: "ContainerStatus",
                kind: Kind::Internal,
                message: format!("the shim names no state of container {id}"),
            }),
        }
    }

    /// Changes a container's limits.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<(), Error> {
        let json = serde_json::to_vec(resources).map_err(|source| Error::Encode {
            call: "Update",
            source,
        })?;
        let mut request = UpdateTaskRequest::new();
        request.id = id.to_string();
        request.resources = MessageField::some(any(LINUX_RESOURCES, json));
        self.answered("Update", Limit::Call, self.0.task.update(unbounded(), &request))
            .await?;
        Ok(())
    }

    /// What a container used.
    ///
    /// # Errors
    /// `NotFound` when the shim does not know it, `Unimplemented` for metrics that are not cgroup v2's.
    pub async fn stats(&self, id: &ContainerId) -> Result<TaskStats, Error> {
        let mut request = StatsRequest::new();
        request.id = id.to_string();
        let response = self
            .answered("Stats", Limit::Call, self.0.task.stats(unbounded(), &request))
            .await?;
        let failed = |kind, message: String| Error::Call {
            call: "Stats",
            kind,
            message,
        };
        let stats = response.stats.unwrap_or_default();
        if stats.type_url != CGROUP2_METRICS {
            let message = format!("metrics of type {:?}, not {CGROUP2_METRICS}", stats.type_url);
            return Err(failed(Kind::Unimplemented, message));
        }
        let metrics =
            Metrics::parse_from_bytes(&stats.value).map_err(|e| failed(Kind::Internal, e.to_string()))?;
        let memory = metrics.memory.unwrap_or_default();
        Ok(TaskStats {
            cpu_nanos: metrics.cpu.unwrap_or_default().usage_usec.saturating_mul(1000),
            memory_usage: memory.usage,
            memory_working_set: memory.usage.saturating_sub(memory.inactive_file),
            memory_rss: memory.anon,
            memory_limit: Some(memory.usage_limit).filter(|limit| *limit != u64::MAX),
            swap_usage: memory.swap_usage,
            page_faults: memory.pgfault,
            major_page_faults: memory.pgmajfault,
            pids: metrics.pids.unwrap_or_default().current,
        })
    }

    /// Opens a container's log anew at its path.
    ///
    /// # Errors
    /// `NotFound`; what the file system says.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        let mut request = ReopenLogRequest::new();
        request.container_id = id.to_string();
        self.answered(
            "ReopenLog",
            Limit::Call,
            self.0.extension.reopen_log(unbounded(), &request),
        )
        .await?;
        Ok(())
    }
}

/// Connects to a socket whose path may be longer than an address holds (108 bytes): by a descriptor of its
/// directory.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(parent)?;
    let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
    UnixStream::connect(Path::new(&short).join(name)).await
}

/// A call that ends when it ends; how long is the shim's business or the caller's.
pub(crate) fn unbounded() -> Context {
    ttrpc::context::with_timeout(0)
}

pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn exit(exit: &MessageField<ContainerExit>) -> Exit {
    let exit = exit.clone().unwrap_or_default();
    Exit {
        code: exit.code,
        at: UnixNanos(exit.at_nanos),
        oom_killed: exit.oom_killed,
        lost: exit.lost,
    }
}

fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value,
        ..Any::default()
    }
}

fn packed(type_url: &str, message: &impl Message) -> MessageField<Any> {
    let bytes = message
        .write_to_bytes()
        .expect("a message of ours has no required fields and fits into memory");
    MessageField::some(any(type_url, bytes))
}

fn sandbox_options(request: &SandboxRequest) -> SandboxOptions {
    let mut options = SandboxOptions::new();
    options.pins = pins(request);
    options.hostname.clone_from(&request.hostname);
    options.sysctls = request.sysctls.clone().into_iter().collect();
    if let Some(user) = &request.namespaces.user {
        options.uid_mappings = user.uids.iter().map(mapping).collect();
        options.gid_mappings = user.gids.iter().map(mapping).collect();
    }
    if request.namespaces.pid {
        options.init_cgroup.clone_from(&request.cgroup);
        (options.init_uid, options.init_gid) = request.user;
    }
    if let Some((path, bytes)) = &request.shm {
        options.shm = path.display().to_string();
        options.shm_bytes = *bytes;
    }
    options
}

fn pins(request: &SandboxRequest) -> Vec<NamespacePin> {
    use namespace_pin::Kind as Namespace;

    let NamespaceRequest {
        ipc,
        uts,
        pid,
        net,
        user,
    } = &request.namespaces;
    let in_directory = |name: &str| request.pins.join(name);
    let wanted = [
        (user.is_some(), Namespace::USER, Some(in_directory("user"))),
        (*ipc, Namespace::IPC, Some(in_directory("ipc"))),
        (*uts, Namespace::UTS, Some(in_directory("uts"))),
        (*net, Namespace::NET, request.netns.clone()),
        (*pid, Namespace::PID, Some(in_directory("pid"))),
    ];
    let made = wanted.into_iter().filter(|(wanted, ..)| *wanted);
    made.filter_map(|(_, kind, path)| {
        let mut pin = NamespacePin::new();
        pin.kind = EnumOrUnknown::new(kind);
        pin.path = path?.display().to_string();
        Some(pin)
    })
    .collect()
}

fn mapping(mapping: &Mapping) -> IdMapping {
    let mut message = IdMapping::new();
    message.host = mapping.host_id;
    message.container = mapping.container_id;
    message.length = mapping.length;
    message
}

/// The overlay as shim v2 describes mounts: options as mount(8) takes them, a colon in a name escaped.
fn overlay(request: &TaskCreate) -> Mount {
    let lowers: Vec<String> = request.lowers.iter().map(|path| escaped(path)).collect();
    let mut mount = Mount::new();
    mount.type_ = "overlay".to_owned();
    mount.source = "overlay".to_owned();
    mount.options = vec![
        format!("lowerdir={}", lowers.join(":")),
        format!("upperdir={}", request.writable.0.display()),
        format!("workdir={}", request.writable.1.display()),
        // Layers may be file systems of their own; all files shall have one device number.
        "xino=auto".to_owned(),
    ];
    if request.mapped {
        mount.options.push("idmap".to_owned());
    }
    mount
}

fn escaped(path: &Path) -> String {
    path.display()
        .to_string()
        .replace('\\', "\\\\")
        .replace(':', "\\:")
}
