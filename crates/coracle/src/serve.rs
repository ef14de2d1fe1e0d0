//! The role `serve`: opens what is on disk, starts the engine, answers the CRI until told to leave.

mod instance;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coracle_cri::process::{Control, Process};
use coracle_cri::socket;
use coracle_engine::config::{EngineConfig, Handler};
use coracle_engine::{Engine, NodeConfig};
use coracle_image::{Downloads, ImagesConfig, Policy, PolicySource, Proxies, RegistryConfig, RetryPolicy};
use coracle_network::{DefaultNetwork, NetworksConfig};
use coracle_snapshot::{Limits, Snapshots, Snapshotter};
use coracle_store::Store;
use coracle_task::{Deadlines, ShimsConfig};
use coracle_types::RuntimeHandlerName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cli::ServeArgs;
use crate::config::{Config, EXIT_CONFIG, Loaded, Sources};
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::notify::Manager;
use crate::reload::Reloader;

/// The daemon has one thread that serves and some that wait for disks: more arenas would only keep what was
/// freed from each other.
const ARENAS: u16 = 2;
/// So long after the start nothing of it is used any more.
const SETTLED: Duration = Duration::from_secs(10);
/// How often it is looked whether pods came and went meanwhile, and what that took is given back.
const ROUND: Duration = Duration::from_secs(60);
/// A daemon that is only asked what there is touches less in a round.
const GROWN: u64 = 128;

/// Names a step at which the daemon kills itself: tests see so what a kill at that moment leaves.
const DIE_AT: &str = "CORACLE_DIE_AT";

/// Runs the daemon until SIGTERM or SIGINT; pods run on without it.
pub(crate) fn run(args: ServeArgs, socket: PathBuf) -> anyhow::Result<ExitCode> {
    let sources = Sources::of_daemon(&args, &socket);
    let loaded = match Loaded::read(&sources) {
        Ok(loaded) => loaded,
        Err(rejected) => {
            crate::terminal::complain(&rejected.into());
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let logging = Logging::begin(&loaded.config)?;
    let watched = Watched {
        sources,
        loaded: loaded.clone(),
        logging,
    };
    let manager = Manager::from_environment();
    coracle_sys::memory::limit_arenas(ARENAS);
    if let Ok(at) = std::env::var(DIE_AT) {
        tracing::warn!(at, "told by {DIE_AT} to die: this is a test of recovery");
        coracle_sys::steps::die_at(&at, |step| tracing::info!(step, "entering"));
    }
    coracle_keeper::launch::raise_open_files().context("raise the limit of open files")?;
    // One thread serves; what blocks (unpacking, directories) has threads of its own while it does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // From here on it ends nothing: one that comes during the start is answered after it.
        let mut hangup = signal(SignalKind::hangup())?;
        let starting = manager.starting();
        let daemon = Daemon::start(&loaded.config, Some(watched)).await?;
        drop(starting);
        manager.ready(daemon.socket()).await?;
        let _fed = manager.watch(daemon.socket());
        tracing::info!(socket = %daemon.socket().display(), version = env!("CARGO_PKG_VERSION"), "ready");
        let mut rounds = tokio::time::interval_at(tokio::time::Instant::now() + SETTLED, ROUND);
        let mut faults = 0;
        loop {
            tokio::select! {
                _ = rounds.tick() => faults = give_back(faults),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(()) = hangup.recv() => daemon.reload(&manager),
            }
        }
        manager.stopping();
        tracing::info!("leaving; pods run on");
        daemon.leave().await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Gives back what was touched since `faults` were counted, when that is much: most of it are pages of the
/// program that a start of the daemon or of a pod needs, and that lists and probes do not. Gives the new count.
fn give_back(faults: u64) -> u64 {
    if coracle_sys::memory::faults() < faults + GROWN {
        return faults;
    }
    coracle_sys::memory::give_back();
    coracle_sys::memory::faults()
}

/// A configuration that may be read again.
pub(crate) struct Watched {
    sources: Sources,
    loaded: Loaded,
    logging: Logging,
}

/// A daemon under way in this process.
pub(crate) struct Daemon {
    engine: Arc<Engine>,
    socket: PathBuf,
    end: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), coracle_cri::ServeError>>,
    control: Arc<dyn Control>,
    _file: socket::SocketFile,
    instance: instance::Claim,
}

impl Daemon {
    /// Starts the engine and begins to answer. One that a command starts for itself is not `watched`.
    pub(crate) async fn start(config: &Config, watched: Option<Watched>) -> anyhow::Result<Self> {
        socket::check(&config.socket)?;
        let instance = instance::claim(Path::new(instance::DIRECTORY), config.instance.as_str())?;
        let store = Store::open(&config.root.join("db.redb"))?;
        let snapshots: Arc<dyn Snapshotter> = Arc::new(Snapshots::open_with(
            &config.root,
            Limits::default(),
            config.snapshotter,
        )?);
        let policy = match (&watched, &config.signature_policy) {
            (Some(watched), _) => watched.loaded.policy.clone(),
            (None, path) => path.as_deref().map(Policy::load).transpose()?.map(Arc::new),
        };
        let node = node_config(config, policy, &store, &snapshots)?;
        let engine = Engine::start(node, store, snapshots).await?;
        // Usually the state directory, which the engine has made for root alone.
        std::fs::create_dir_all(config.socket.parent().unwrap_or(Path::new("/")))?;
        let (listener, file) = socket::bind(&config.socket, config.socket_mode.0).await?;
        crate::access::give(config)?;
        let process = process(config, watched, &engine).await?;
        let control = Arc::clone(&process.control);
        if let Some(directory) = config.image_archives.clone() {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move { engine.load_archives(&directory).await });
        }
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(coracle_cri::serve(
            Arc::clone(&engine),
            process,
            listener,
            async {
                // A sender that is gone means the same as one that spoke.
                let _ = ended.await;
            },
        ));
        Ok(Self {
            engine,
            socket: config.socket.clone(),
            end,
            serving,
            control,
            _file: file,
            instance,
        })
    }

    /// Where it answers.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads the configuration again, while calls are answered; the log says what came of it.
    pub(crate) fn reload(&self, manager: &Manager) {
        let (control, manager) = (Arc::clone(&self.control), manager.clone());
        let socket = self.socket.clone();
        tokio::spawn(async move {
            manager.reloading();
            let _ = control.reload().await;
            manager.reloaded(&socket);
        });
    }

    /// Stops answering. Pods run on.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        let _ = self.end.send(());
        self.serving.await??;
        self.engine.settle().await;
        Ok(())
    }

    /// Stops answering and removes all pods and all that carries the instance's name.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let _ = self.end.send(());
        self.serving.await??;
        self.engine.remove_node().await?;
        self.instance.give_up();
        Ok(())
    }
}

/// What the services are told of this process.
async fn process(config: &Config, watched: Option<Watched>, engine: &Arc<Engine>) -> anyhow::Result<Process> {
    let Some(watched) = watched else {
        return Ok(Process::default());
    };
    let metrics = Metrics::new();
    engine.observe(Arc::clone(&metrics) as _);
    let Watched {
        sources,
        loaded,
        logging,
    } = watched;
    let engine = Arc::clone(engine);
    let control = Reloader::start(sources, loaded, logging, engine, Arc::clone(&metrics)).await?;
    Ok(Process {
        control,
        meter: metrics,
        drain: config.drain.0,
    })
}

/// How registries are found and asked.
pub(crate) fn registries(config: &Config) -> RegistryConfig {
    RegistryConfig {
        hosts_dirs: config.registry_config_dirs.clone(),
        registries_conf: config.registries_conf.clone(),
        credentials: config.registry_credentials.0.clone(),
        auth_file: config.registry_auth_file.0.clone(),
        proxies: Proxies {
            http: config.http_proxy.0.clone(),
            https: config.https_proxy.0.clone(),
            except: config.no_proxy.0.clone(),
        },
        retries: RetryPolicy {
            attempts: config.registry_attempts.0,
            connect_timeout: config.registry_connect_timeout.0,
            stall_timeout: config.registry_stall_timeout.0,
            host_pause: config.registry_host_pause.0,
            ..RetryPolicy::default()
        },
        downloads: Downloads {
            layers: config.max_concurrent_downloads.0,
            connections: config.max_connections.0,
            split_above: config.parallel_above.0,
            parts: config.parallel_ranges.0,
        },
    }
}

/// How long shims may take to answer.
pub(crate) fn shim_deadlines(config: &Config) -> Deadlines {
    Deadlines {
        call: config.shim_call_deadline.0,
        operation: config.shim_operation_deadline.0,
    }
}

/// Which images may be pulled. Says what of it refuses everything, since nobody may have meant that.
pub(crate) fn policies(config: &Config, node: Option<Arc<Policy>>) -> PolicySource {
    for (scope, what) in node.iter().flat_map(|policy| policy.unsupported()) {
        tracing::warn!(
            scope,
            what,
            "the signature policy asks for what cannot be verified: its images are refused"
        );
    }
    PolicySource {
        node,
        namespaces: config.signature_policy_dir.clone(),
    }
}

fn node_config(
    config: &Config,
    policy: Option<Arc<Policy>>,
    store: &Store,
    snapshots: &Arc<dyn Snapshotter>,
) -> anyhow::Result<NodeConfig> {
    let executable = std::env::current_exe().context("find the program's own file")?;
    let mut images = ImagesConfig::new(&config.root, store.clone(), Arc::clone(snapshots));
    images.registries = registries(config);
    images.policy = policies(config, policy);
    images.pinned.clone_from(&config.pinned_images);
    images.limits.download = config.max_image_download.0;
    images.limits.unpacked = config.max_image_unpacked.0;
    let mut networks = NetworksConfig::new(config.instance.clone());
    networks.conf_dir.clone_from(&config.cni_conf_dir);
    networks.bin_dirs.clone_from(&config.cni_bin_dirs);
    networks.plugin_deadline = config.plugin_deadline.0;
    networks.address_preference = config.address_preference;
    networks.state_dir = config.state.join("network");
    networks.default_network = config.default_network.then(|| DefaultNetwork {
        subnets: config.default_subnets.clone(),
        ..DefaultNetwork::default()
    });
    Ok(NodeConfig {
        engine: EngineConfig {
            instance: config.instance.clone(),
            root: config.root.clone(),
            state: config.state.clone(),
            cgroup_driver: config.cgroup_driver,
            default_cgroup_parent: config.default_cgroup_parent.0.clone(),
            runtime_cgroup: config.runtime_cgroup.0.clone(),
            handlers: [(RuntimeHandlerName::default(), Handler::default())].into(),
            pids_limit: config.pids_limit.limit(),
            apparmor_profile: config.apparmor_profile.name(),
            exec_limit: usize::try_from(config.exec_max_output.0).unwrap_or(usize::MAX),
            host_resolv_conf: "/etc/resolv.conf".into(),
        },
        images,
        networks,
        shims: ShimsConfig {
            runtime_dir: config.state.clone(),
            instance: config.instance.clone(),
            cgroup: config.runtime_cgroup.0.clone(),
            program: coracle_keeper::Program {
                executable,
                role: vec!["keeper".into()],
            },
            deadlines: shim_deadlines(config),
            log: config.log_level.0.clone(),
            settle: None,
        },
    })
}
