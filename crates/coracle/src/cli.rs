//! The command line: what may be typed. What it means is decided where it is run.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where the daemon listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/coracle/coracle.sock";

/// A Kubernetes container runtime on the short chain: kubelet, daemon, one small shim a pod, container.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 100, infer_subcommands = false)]
#[command(
    after_help = "A first pod:  coracle pull docker.io/library/busybox && coracle run docker.io/library/busybox -- echo hello\n\
                        Is all well?  coracle audit"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How to reach the daemon and how to print.
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Socket of the daemon, or of any other CRI runtime.
    #[arg(long, global = true, env = "CORACLE_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// How results are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Everything that the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon that the kubelet (or crictl) talks to
    Serve(ServeArgs),
    /// Run a container in a pod of its own
    Run(RunArgs),
    /// List containers
    Ps(ListArgs),
    /// List pods
    Pods(ListArgs),
    /// List images
    Images,
    /// Pull an image from its registry
    Pull(PullArgs),
    /// Show what a container printed
    Logs(LogsArgs),
    /// Run a command in a running container and show what it prints
    Exec(ExecArgs),
    /// Stop pods or containers
    Stop(StopArgs),
    /// Remove pods or containers, running ones too
    Rm(ObjectArgs),
    /// Show all that is known of a pod, a container or an image
    Inspect(OneArg),
    /// Show the steps of a pod's start with their times
    Explain(OneArg),
    /// Show what the kernel has that no pod owns, and what pods own that is not there
    Audit,
    /// Load images from an OCI layout: a directory or a tar
    Import(ImportArgs),
    /// Holds what must outlive a shim; started by the daemon
    #[command(hide = true)]
    Keeper(PassedOn),
    /// Serves a page; the entrypoint of the demo image
    #[command(hide = true)]
    DemoPage(DemoPageArgs),
}

/// Options of the daemon; each overrides the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML) [default: /etc/coracle/config.toml when it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Name in all global objects (cgroups, bridge, nft table), so that two daemons never meet
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Directory of what outlives a boot
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of what does not; on tmpfs
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Directory of CNI configurations
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given several times
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,
    /// Directory of hosts.toml trees; may be given several times
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config_dir: Vec<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as coracle_engine=debug
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
    /// How it is logged
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
}

/// How log records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// A container to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Image; pulled when it is not on the node
    pub(crate) image: String,
    /// Program and arguments; the image's own when left out
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
    /// Name of the pod [default: made from the image's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Return when it runs, instead of showing what it prints until it ends
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Keep the pod after its container has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Environment variable; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Port of the host that leads to one of the pod; may be given several times
    #[arg(long, short, value_name = "[IP:]HOST:POD[/udp]", value_parser = parse_publish)]
    pub(crate) publish: Vec<Publish>,
    /// Use the host's network
    #[arg(long)]
    pub(crate) host_network: bool,
    /// Working directory inside
    #[arg(long, short, value_name = "DIR", default_value = "")]
    pub(crate) workdir: String,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Address of the host that listens.
    pub(crate) host_ip: Option<IpAddr>,
    /// Port of the host.
    pub(crate) host_port: u16,
    /// Port of the pod.
    pub(crate) pod_port: u16,
    /// UDP instead of TCP.
    pub(crate) udp: bool,
}

fn parse_publish(text: &str) -> Result<Publish, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        other => return Err(format!("protocol {other:?} is neither tcp nor udp")),
    };
    let (rest, pod) = ports
        .rsplit_once(':')
        .ok_or("write it as HOST:POD, for instance 8080:80")?;
    let (ip, host) = match rest.rsplit_once(':') {
        Some((ip, host)) => (Some(ip.trim_matches(['[', ']'])), host),
        None => (None, rest),
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is no port: 1 to 65535")),
    };
    let host_ip = ip
        .map(|ip| ip.parse().map_err(|_| format!("{ip:?} is no address")))
        .transpose()?;
    Ok(Publish {
        host_ip,
        host_port: port(host)?,
        pod_port: port(pod)?,
        udp,
    })
}

/// What to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// Also what has ended
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// An image to pull.
#[derive(Debug, Clone, Args)]
pub(crate) struct PullArgs {
    /// Reference: docker.io/library/nginx, registry.example/app:1.2, app@sha256:...
    pub(crate) image: String,
    /// User name for the registry; the password is read from the variable CORACLE_REGISTRY_PASSWORD
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
}

/// Whose log to show.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// Container, or pod with one container: id, its beginning, or name
    pub(crate) object: String,
    /// Go on as it grows, until the container has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// With the time of each line
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}

/// A command to run in a container.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExecArgs {
    /// Container, or pod with one container: id, its beginning, or name
    pub(crate) object: String,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
    /// Kill it after so many seconds; 0 is never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) timeout: u32,
}

/// What to stop.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// Pods or containers: ids, their beginnings, or names
    #[arg(required = true)]
    pub(crate) objects: Vec<String>,
    /// Seconds between the stop signal and KILL
    #[arg(long, short, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) timeout: u32,
}

/// What to act on.
#[derive(Debug, Clone, Args)]
pub(crate) struct ObjectArgs {
    /// Pods, containers or images: ids, their beginnings, or names
    #[arg(required = true)]
    pub(crate) objects: Vec<String>,
}

/// What to look at.
#[derive(Debug, Clone, Args)]
pub(crate) struct OneArg {
    /// Id, its beginning, or name
    pub(crate) object: String,
}

/// From where to load images.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// An OCI layout, on the daemon's file system
    pub(crate) path: PathBuf,
}

/// Arguments that a role reads by itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct PassedOn {
    /// As they stand
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<std::ffi::OsString>,
}

/// The demo's page.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoPageArgs {
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn published_ports_are_read_and_bad_ones_named() {
        let plain = parse_publish("8080:80").unwrap();
        assert_eq!(
            (plain.host_ip, plain.host_port, plain.pod_port, plain.udp),
            (None, 8080, 80, false)
        );
        let full = parse_publish("127.0.0.1:53:5353/udp").unwrap();
        assert_eq!(
            (full.host_ip, full.host_port, full.udp),
            (Some([127, 0, 0, 1].into()), 53, true)
        );
        assert!(parse_publish("[::1]:1:2").unwrap().host_ip.is_some());
        for bad in [
            "80",
            "0:80",
            "80:0",
            "x:80",
            "1:2/sctp",
            "70000:1",
            "300.0.0.1:1:2",
        ] {
            assert!(parse_publish(bad).is_err(), "{bad}");
        }
    }
}
