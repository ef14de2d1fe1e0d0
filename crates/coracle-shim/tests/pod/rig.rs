//! A node for one test: keeper, shims, busybox in a layer, cgroups of its own; gone when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_keeper::Program;
use coracle_keeper::client::Keeper;
use coracle_task::{Deadlines, ExecSync, Shim, Shims, ShimsConfig, TaskCreate};
use coracle_types::{ContainerId, Instance, PodSandboxId};
use oci_spec::runtime::Process;
use serde_json::{Value, json};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Rig {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cgroup: String,
    pub(crate) shims: Arc<Shims>,
    pub(crate) pod: PodSandboxId,
    pub(crate) state: PathBuf,
    pub(crate) shim: Shim,
}

/// A container to make.
pub(crate) struct Wish<'a> {
    pub(crate) command: &'a [&'a str],
    /// Merged into the specification.
    pub(crate) linux: Value,
    pub(crate) log: bool,
    pub(crate) stdin: bool,
    pub(crate) terminal: bool,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self {
            command: &["true"],
            linux: json!({}),
            log: true,
            stdin: false,
            terminal: false,
        }
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().expect("a directory");
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let cgroup = format!("/coracle-test-shim-{}-{number:03}", std::process::id());
        layer(&directory.path().join("layer"));
        for name in ["logs", "pods", "ns"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let config = ShimsConfig {
            runtime_dir: directory.path().into(),
            instance: Instance::default(),
            cgroup: format!("{cgroup}-slice"),
            program: Program {
                executable: env!("CARGO_BIN_EXE_shim-roles").into(),
                role: vec!["keeper".into()],
            },
            deadlines: Deadlines::default(),
            log: "warn".to_owned(),
            settle: None,
        };
        let shims = Shims::start(config).await.expect("a keeper");
        let pod = PodSandboxId::generate();
        let state = directory.path().join("pods").join(pod.as_str());
        fs::create_dir(&state).expect("state");
        let shim = shims.launch(&pod, &state).await.expect("a shim");
        Self {
            directory,
            cgroup,
            shims,
            pod,
            state,
            shim,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self, id: &ContainerId) -> PathBuf {
        self.path("logs").join(format!("{}.log", id.short()))
    }

    /// Stream, tag and text of each line of a log.
    pub(crate) fn lines(&self, id: &ContainerId) -> Vec<String> {
        lines(&self.log(id))
    }

    pub(crate) fn request(&self, wish: &Wish<'_>) -> TaskCreate {
        let id = ContainerId::generate();
        let bundle = self.path("bundles").join(id.as_str());
        let writable = (
            self.path("writable").join(id.as_str()),
            self.path("work").join(id.as_str()),
        );
        for directory in [&bundle, &writable.0, &writable.1] {
            fs::create_dir_all(directory).expect("a directory");
        }
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "process": {
                "args": wish.command,
                "cwd": "/",
                "env": ["PATH=/bin"],
                "user": { "uid": 0, "gid": 0 },
                "terminal": wish.terminal,
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["newinstance", "ptmxmode=0666"] },
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.cgroup),
                "namespaces": [{ "type": "mount" }, { "type": "pid" }],
            },
        });
        for (name, value) in wish.linux.as_object().expect("an object") {
            spec["linux"][name] = value.clone();
        }
        fs::write(bundle.join("config.json"), spec.to_string()).expect("the specification");
        let log = wish.log.then(|| self.log(&id));
        TaskCreate {
            id,
            bundle,
            lowers: vec![self.path("layer")],
            writable,
            mapped: false,
            stdin: wish.stdin,
            terminal: wish.terminal,
            log,
        }
    }

    /// Creates and starts.
    pub(crate) async fn run(&self, wish: &Wish<'_>) -> ContainerId {
        let request = self.request(wish);
        let id = request.id.clone();
        self.shim.create(request).await.expect("created");
        self.shim.start(&id).await.expect("started");
        id
    }

    pub(crate) async fn shell(&self, script: &str) -> ContainerId {
        self.run(&Wish {
            command: &["sh", "-c", script],
            ..Wish::default()
        })
        .await
    }

    pub(crate) async fn shim_pid(&self) -> i32 {
        let title = format!("coracle-shim {}", self.pod.short());
        eventually("the shim's name", || process_with(&title)).await
    }

    /// Kills the shim and returns when its client has seen that.
    pub(crate) async fn kill_shim(&self) {
        kill(self.shim_pid().await);
        self.shim.closed().await;
    }

    pub(crate) fn keeper(&self) -> Keeper {
        let sockets = fs::read_dir(self.path("keeper"))
            .expect("its directory")
            .flatten();
        let mut sockets = sockets
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
        Keeper::connect(&sockets.next().expect("a socket")).expect("a keeper")
    }

    /// Whether nobody listens on the keeper's socket.
    pub(crate) fn keeper_is_gone(&self) -> bool {
        let sockets = fs::read_dir(self.path("keeper"))
            .expect("its directory")
            .flatten();
        sockets
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
            .all(|path| Keeper::connect(&path).is_err())
    }

    /// The shim leaves, the keeper after it; nothing of the pod must be left.
    pub(crate) async fn end(self) {
        self.shim.shutdown().await.expect("shut down");
        let left: Vec<_> = fs::read_dir(&self.state)
            .expect("state")
            .flatten()
            .map(|e| e.path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let keeper = self.keeper();
        assert!(keeper.keys(&self.pod).expect("keys").is_empty());
        self.shims.retire().await.expect("told");
        eventually("the keeper to leave", || keeper.status().is_err().then_some(())).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let run = self.directory.path().display().to_string();
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&run)).collect();
        assert!(mounts.is_empty(), "{mounts:?}");
        let left = cgroups(&self.cgroup);
        let left: Vec<_> = left
            .iter()
            .filter(|path| !path.to_string_lossy().ends_with(&self.cgroup))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for (pid, _) in processes()
            .into_iter()
            .filter(|(_, text)| text.contains(self.pod.short()))
        {
            kill(pid);
        }
        // A killed process leaves its cgroup a moment later.
        let begin = Instant::now();
        loop {
            let left = cgroups(&self.cgroup);
            if left.is_empty() || begin.elapsed() > PATIENCE {
                break;
            }
            for path in left.iter().rev() {
                let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                processes
                    .lines()
                    .filter_map(|line| line.parse().ok())
                    .for_each(kill);
                let _ = fs::remove_dir(path);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Cgroups whose path begins with `prefix`, in every hierarchy, parents first.
pub(crate) fn cgroups(prefix: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let mut found = Vec::new();
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let point = mount.split(' ').nth(4).expect("a mount point");
        let name = prefix.trim_start_matches('/');
        for entry in fs::read_dir(point).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(name) && entry.path().is_dir() {
                collect(&entry.path(), &mut found);
            }
        }
    }
    found
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    into.push(directory.into());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), into);
        }
    }
}

/// busybox with what it is linked to.
fn layer(root: &Path) {
    let copy = |from: &str| {
        let to = root.join(from.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        fs::copy(from, &to).unwrap_or_else(|error| panic!("copy {from}: {error}"));
    };
    copy("/bin/busybox");
    let linked = Command::new("ldd")
        .arg("/bin/busybox")
        .output()
        .expect("ldd")
        .stdout;
    for word in String::from_utf8_lossy(&linked)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        copy(word);
    }
    for name in [
        "sh", "true", "false", "echo", "sleep", "cat", "kill", "yes", "head", "hostname", "dd", "tail",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
    }
    for name in ["proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
}

pub(crate) fn exec(command: &[&str]) -> ExecSync {
    let process: Process = serde_json::from_value(json!({
        "args": command,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": { "uid": 0, "gid": 0 },
    }))
    .expect("a process");
    ExecSync {
        process,
        timeout: Some(PATIENCE),
        limit: 16 << 20,
    }
}

pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("the log");
    text.lines()
        .map(|line| line.split_once(' ').expect("a time").1.to_owned())
        .collect()
}

/// Waits for what is only a matter of time.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Pid and command line of every process.
pub(crate) fn processes() -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
    .collect()
}

pub(crate) fn process_with(text: &str) -> Option<i32> {
    processes()
        .into_iter()
        .find(|(_, line)| line.contains(text))
        .map(|(pid, _)| pid)
}

/// Whether the tests may make containers here.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
