//! Another runtime to hold ours against: containerd with runc, in a node, when they are on PATH.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use coracle_testkit::cni;
use coracle_testkit::node::{Node, Service, by_systemd};

/// Where its socket is, inside.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where it keeps images, below the node's directory.
pub(crate) const ROOT: &str = "containerd";

/// Looks a program up in this process's PATH.
pub(crate) fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Starts containerd; its pods take `registry.k8s.io/pause:3.10` through `hosts.toml`.
pub(crate) fn containerd(node: &Node) -> Result<Service> {
    let program = find_on_path("containerd").context("containerd is not on PATH")?;
    let runc = find_on_path("runc").context("runc is not on PATH")?;
    find_on_path("containerd-shim-runc-v2").context("containerd-shim-runc-v2 is not on PATH")?;
    node.write("/etc/containerd/config.toml", config(node, &runc))?;
    let mut command = node.command(program);
    command.args(["--config", "/etc/containerd/config.toml"]);
    let socket = node.path(SOCKET);
    Service::start(node, "containerd", command, || {
        UnixStream::connect(&socket).is_ok()
    })
}

/// The defaults of containerd 2 but for places, the cgroup driver (the node's) and the pause image's
/// source.
fn config(node: &Node, runc: &Path) -> String {
    let bin_dirs: Vec<String> = cni::plugin_directories()
        .iter()
        .map(|directory| format!("{:?}", directory.display().to_string()))
        .collect();
    format!(
        r#"version = 3
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "registry.k8s.io/pause:3.10"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  # Where the machine withholds CAP_SYS_RESOURCE the pause container's score could not be lowered.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{bin_dirs}]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = {by_systemd}
"#,
        root = node.directory().join(ROOT).display(),
        by_systemd = by_systemd(),
        bin_dirs = bin_dirs.join(", "),
        runc = runc.display(),
    )
}
