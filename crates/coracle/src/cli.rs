//! The command line: what may be typed. What it means is decided where it is run.
//!
//! A file of `cli/` has the options of one family of commands.

mod config;
mod generate;
mod images;
mod listing;
mod manifest;
mod objects;
mod observe;
mod output;
mod roles;
mod run;
mod serve;

use clap::{Parser, Subcommand};

pub(crate) use config::{CheckArgs, ConfigArgs, ConfigCommand, LogLevelArgs, ShowArgs};
pub(crate) use generate::{GenerateArgs, Generated};
pub(crate) use images::{
    ImagesArgs, ImportArgs, LoadArgs, PruneArgs, PullArgs, PushArgs, SaveArgs, SaveFormat,
};
pub(crate) use listing::{ListArgs, PickArgs};
pub(crate) use objects::{ExecArgs, LogsArgs, ObjectArgs, OneArg, StopArgs};
pub(crate) use observe::{DoctorArgs, DoctorTopic, EventsArgs, ExplainArgs, OpsArgs, SortKey, TopArgs};
pub(crate) use output::{DEFAULT_SOCKET, Global, Output};
pub(crate) use roles::{DemoPageArgs, PassedOn};
pub(crate) use run::{Publish, RunArgs};
pub(crate) use serve::{LogFormat, ServeArgs};

/// A Kubernetes container runtime on the short chain: kubelet, daemon, one small shim a pod, container.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 100, infer_subcommands = false)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How to reach the daemon and how to print.
    #[command(flatten)]
    pub(crate) global: Global,
}

const AFTER_HELP: &str = "\
Objects are named by id, by the beginning of an id, or by name; where a name is
not enough, by pod/NAMESPACE/NAME or container/NAMESPACE/POD/NAME.

Exit status:
  0    done
  1    failed, or audit or doctor found something broken
  2    the command line is wrong
  3    no runtime answers on the socket, or it may not be used
  4    there is no such object
  5    a name means several objects
  78   the configuration is wrong
  125  `run` or `exec` could not run the command; else they end as it did

A first pod:
  coracle pull docker.io/library/busybox
  coracle run docker.io/library/busybox -- echo hello
Is all well?
  coracle doctor && coracle audit";

/// Everything that the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon that the kubelet (or crictl) talks to
    Serve(ServeArgs),
    /// Run a container in a pod of its own, or the pods of Kubernetes manifests
    Run(RunArgs),
    /// List containers
    #[command(visible_alias = "containers")]
    Ps(ListArgs),
    /// List pods
    Pods(ListArgs),
    /// List images
    Images(ImagesArgs),
    /// Pull an image from its registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Load images from an OCI layout: a directory or a tar
    Import(ImportArgs),
    /// Load images from an archive or from standard input
    Load(LoadArgs),
    /// Write images to an archive, with their digests where the original bytes can be had
    Save(SaveArgs),
    /// Remove images that no container uses, and layers that no image needs
    Prune(PruneArgs),
    /// Show what a container printed
    Logs(LogsArgs),
    /// Run a command in a running container and show what it prints
    Exec(ExecArgs),
    /// Stop pods or containers
    Stop(StopArgs),
    /// Remove pods, containers or images, running ones too
    Rm(ObjectArgs),
    /// Show all that is known of a pod, a container or an image
    Inspect(OneArg),
    /// Show the steps of a pod's start with their times
    Explain(ExplainArgs),
    /// Show what pods and containers use, live
    Top(TopArgs),
    /// Show what happens to pods and containers as it happens
    Events(EventsArgs),
    /// Show what the daemon is doing: step, age, who waits
    Ops(OpsArgs),
    /// Show what this node has, what its lack costs, and what to do
    Doctor(DoctorArgs),
    /// Show what the kernel has that no pod owns, and what pods own that is not there
    Audit,
    /// Show, check or reload the daemon's configuration
    Config(ConfigArgs),
    /// Change what the daemon logs, for the moment
    LogLevel(LogLevelArgs),
    /// Write manual pages or shell completions
    #[command(hide = true)]
    Generate(GenerateArgs),
    /// Holds what must outlive a shim; started by the daemon
    #[command(hide = true)]
    Keeper(PassedOn),
    /// Serves a page; the entrypoint of the demo image
    #[command(hide = true)]
    DemoPage(DemoPageArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn empty_names_and_malformed_values_are_mistakes_of_the_command_line() {
        for line in [
            &["pull", ""][..],
            &["push", "a", ""],
            &["save", "a", ""],
            &["inspect", ""],
            &["rm", "a", ""],
            &["stop", ""],
            &["logs", ""],
            &["explain", ""],
            &["top", ""],
            &["exec", "", "--", "true"],
            &["run", ""],
            &["run", "--name", "", "a"],
            &["run", "-e", "A", "a"],
            &["run", "-e", "=b", "a"],
            &["log-level", ""],
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"coracle").chain(line));
            assert_eq!(error.map(|_| ()).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
