//! A root file system of busybox, specifications to run in it, and what a test leaves behind.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_container::{
    ContainerProcess, CreateRequest, Error, ExecProcess, ExecTree, Init, ProcessIo, RootfsSource, Stdio,
    create, exec,
};
use coracle_types::ContainerId;
use oci_spec::runtime::{Process, Spec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};

/// Mounts, cgroups of this test and descriptors as they are now.
pub(crate) fn census() -> (usize, Vec<String>, usize, usize) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    let mut cgroups = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let own = hierarchy.path().join(parent().trim_start_matches('/'));
        if let Ok(entries) = std::fs::read_dir(&own) {
            cgroups.extend(
                entries
                    .flatten()
                    .filter(|e| e.path().is_dir())
                    .map(|e| e.path().display().to_string()),
            );
        }
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let me = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    (mounts, cgroups, descriptors, children.split_whitespace().count())
}

/// The cgroup below which this run's containers live.
pub(crate) fn parent() -> String {
    format!("/coracle-test-{}", std::process::id())
}

/// A bundle with an image's root file system.
pub(crate) struct Image {
    pub(crate) directory: tempfile::TempDir,
}

impl Image {
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }
}

/// Busybox with its libraries, as files of an image.
pub(crate) fn busybox() -> Image {
    let image = Image {
        directory: tempfile::tempdir().unwrap(),
    };
    let root = image.root();
    for directory in ["bin", "dev", "proc", "sys", "etc", "root", "var"] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(root.join(directory))
            .unwrap();
    }
    std::fs::create_dir(root.join("tmp")).unwrap();
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(image.directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let libraries = Command::new("ldd").arg("/bin/busybox").output().unwrap();
    for word in String::from_utf8(libraries.stdout)
        .unwrap()
        .split_whitespace()
        .filter(|w| w.starts_with('/'))
    {
        let to = root.join(&word[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(word, to).unwrap();
    }
    for name in [
        "sh", "cat", "echo", "ls", "id", "mkdir", "touch", "mount", "mknod", "sleep", "true", "false", "ps",
        "readlink", "hostname", "env", "grep", "head", "kill", "stat", "chmod", "dd", "rm", "tty", "stty",
        "pwd", "ip", "wc",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    image
}

pub(crate) const CAPABILITIES: [&str; 4] = ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID"];

/// What the CRI asks for: its namespaces, mounts, masks and a deny-all device list.
pub(crate) fn spec(arguments: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/bin", "HOME=/root"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("{}/{}", parent(), ContainerId::generate()),
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi", "/nonexistent"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

pub(crate) fn read_spec(value: &Value) -> Spec {
    serde_json::from_value(value.clone()).expect("a specification")
}

/// A running container whose output goes to a pipe.
pub(crate) struct Running {
    pub(crate) init: Init,
    pub(crate) spec: Spec,
    pub(crate) output: OwnedFd,
}

/// Descriptors for a process, and where what it prints can be read.
pub(crate) fn pipes() -> (ProcessIo, OwnedFd) {
    let (output, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stdin = File::open("/dev/null").unwrap().into();
    let stderr = write.try_clone().unwrap();
    (
        ProcessIo::Stdio(Stdio {
            stdin,
            stdout: write,
            stderr,
        }),
        output,
    )
}

pub(crate) fn try_create(image: &Image, value: &Value) -> Result<Running, Error> {
    try_create_on(image, value, RootfsSource::Path(image.root()))
}

pub(crate) fn try_create_on(image: &Image, value: &Value, rootfs: RootfsSource) -> Result<Running, Error> {
    let spec = read_spec(value);
    let (io, output) = pipes();
    let id = ContainerId::generate();
    let request = CreateRequest {
        id: &id,
        spec: &spec,
        bundle: image.directory.path(),
        rootfs,
        io,
    };
    let init = create(request)?;
    Ok(Running { init, spec, output })
}

pub(crate) fn start(image: &Image, value: &Value) -> Running {
    let mut running = try_create(image, value).unwrap_or_else(|error| panic!("create: {error}"));
    running
        .init
        .start()
        .unwrap_or_else(|error| panic!("start: {error}"));
    running
}

/// Runs to the end: exit code and output.
pub(crate) fn run(image: &Image, value: &Value) -> (i32, String) {
    finish(start(image, value))
}

/// Runs a shell script with the usual specification.
pub(crate) fn shell(image: &Image, script: &str) -> (i32, String) {
    run(image, &spec(&["sh", "-c", script]))
}

pub(crate) fn finish(running: Running) -> (i32, String) {
    let text = read_all(running.output);
    let code = wait(running.init.pidfd());
    running.init.cgroup().remove().unwrap();
    (code, text)
}

/// Kills what runs and cleans up.
pub(crate) fn stop(running: Running) {
    running.init.cgroup().kill().unwrap();
    let _ = wait(running.init.pidfd());
    running.init.cgroup().remove().unwrap();
}

pub(crate) fn wait(pidfd: std::os::fd::BorrowedFd<'_>) -> i32 {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

pub(crate) fn read_all(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn process(running: &Running, arguments: &[&str]) -> Process {
    let mut process = running.spec.process().clone().unwrap();
    process.set_args(Some(arguments.iter().map(ToString::to_string).collect()));
    process
}

pub(crate) fn try_exec(
    running: &Running,
    process: &Process,
    tree: ExecTree,
) -> Result<(ExecProcess, OwnedFd), Error> {
    let (io, output) = pipes();
    let target = ContainerProcess {
        pid: running.init.pid(),
        pidfd: running.init.pidfd(),
        spec: &running.spec,
        cgroup: running.init.cgroup(),
    };
    exec(&target, process, io, tree).map(|process| (process, output))
}

/// Executes a script in a running container: exit code and output.
pub(crate) fn exec_shell(running: &Running, script: &str) -> (i32, String) {
    let process = process(running, &["sh", "-c", script]);
    let (executed, output) =
        try_exec(running, &process, ExecTree::Shared).unwrap_or_else(|error| panic!("exec: {error}"));
    let text = read_all(output);
    (wait(executed.pidfd()), text)
}

pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.set_permissions(PermissionsExt::from_mode(mode)).unwrap();
    let _ = file.as_fd();
}
