//! The role `serve`: opens what is on disk, starts the engine, answers the CRI until told to leave.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use coracle_cri::socket;
use coracle_engine::config::{EngineConfig, Handler};
use coracle_engine::{Engine, NodeConfig};
use coracle_image::ImagesConfig;
use coracle_network::{DefaultNetwork, NetworksConfig};
use coracle_snapshot::{Snapshots, Snapshotter};
use coracle_store::Store;
use coracle_task::ShimsConfig;
use coracle_types::RuntimeHandlerName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, ServeArgs};
use crate::config::Config;

/// Where a machine's daemons tell each other their names; on tmpfs.
const LOCKS: &str = "/run/lock";
/// Root and its group may ask.
const SOCKET_MODE: u32 = 0o660;

/// Runs the daemon until SIGTERM or SIGINT; pods run on without it.
pub(crate) fn run(args: ServeArgs, socket: PathBuf) -> anyhow::Result<ExitCode> {
    let config = Config::load(args, socket)?;
    log_to_stderr(&config)?;
    // One thread serves; what blocks (unpacking, directories) has threads of its own while it does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let daemon = Daemon::start(config).await?;
        tracing::info!(socket = %daemon.socket().display(), version = env!("CARGO_PKG_VERSION"), "ready");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("leaving; pods run on");
        daemon.leave().await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level).with_context(|| {
        format!(
            "log.level: {:?}: write error, warn, info, debug or trace",
            config.log_level
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => {
            builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_target(false)
                .init();
        }
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// A daemon under way in this process.
pub(crate) struct Daemon {
    engine: Arc<Engine>,
    socket: PathBuf,
    end: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), coracle_cri::ServeError>>,
    _file: socket::SocketFile,
    _instance: File,
}

impl Daemon {
    /// Starts the engine and begins to answer.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let instance = claim(&config)?;
        let store = Store::open(&config.root.join("db.redb"))?;
        let snapshots: Arc<dyn Snapshotter> = Arc::new(Snapshots::open(&config.root)?);
        let node = node_config(&config, &store, &snapshots)?;
        let engine = Engine::start(node, store, snapshots).await?;
        // Usually the state directory, which the engine has made for root alone.
        std::fs::create_dir_all(config.socket.parent().unwrap_or(Path::new("/")))?;
        let (listener, file) = socket::bind(&config.socket, SOCKET_MODE).await?;
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(coracle_cri::serve(Arc::clone(&engine), listener, async {
            // A sender that is gone means the same as one that spoke.
            let _ = ended.await;
        }));
        Ok(Self {
            engine,
            socket: config.socket,
            end,
            serving,
            _file: file,
            _instance: instance,
        })
    }

    /// Where it answers.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
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
        Ok(())
    }
}

/// Has the instance's name for as long as the file is open: another daemon of that name, on whatever
/// directories, would take this one's namespaces, links and rules for leftovers.
fn claim(config: &Config) -> anyhow::Result<File> {
    let directory = Path::new(LOCKS);
    std::fs::create_dir_all(directory).with_context(|| format!("make {LOCKS}"))?;
    let path = directory.join(format!("coracle-{}.lock", config.instance));
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "a daemon of the instance {} runs already: stop it, or give this one another name with --instance",
            config.instance
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn node_config(
    config: &Config,
    store: &Store,
    snapshots: &Arc<dyn Snapshotter>,
) -> anyhow::Result<NodeConfig> {
    let executable = std::env::current_exe().context("find the program's own file")?;
    let mut images = ImagesConfig::new(&config.root, store.clone(), Arc::clone(snapshots));
    images.registry_dirs.clone_from(&config.registry_config_dirs);
    images.max_concurrent_downloads = config.max_concurrent_downloads;
    let mut networks = NetworksConfig::new(config.instance.clone());
    networks.conf_dir.clone_from(&config.cni_conf_dir);
    networks.bin_dirs.clone_from(&config.cni_bin_dirs);
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
            default_cgroup_parent: config.default_cgroup_parent.clone(),
            runtime_cgroup: config.runtime_cgroup.clone(),
            handlers: [(RuntimeHandlerName::default(), Handler::default())].into(),
            host_resolv_conf: "/etc/resolv.conf".into(),
        },
        images,
        networks,
        shims: ShimsConfig {
            runtime_dir: config.state.clone(),
            instance: config.instance.clone(),
            cgroup: config.runtime_cgroup.clone(),
            program: coracle_keeper::Program {
                executable,
                role: vec!["keeper".into()],
            },
        },
    })
}
