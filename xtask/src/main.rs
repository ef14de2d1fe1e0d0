//! What make calls: setting up, checking, testing, the demo, nodes, conformance and measurements.
//!
//! Must be buildable before libseccomp is installed, so it depends on none of the crates that need it.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

mod bench;
mod build;
mod critest;
mod deb;
mod demo;
mod fuzz;
mod guest;
mod node;
mod peer;
mod pictures;
mod service;
mod setup;
mod steps;
mod suite;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What make calls")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is lacking of Debian's packages
    Setup,
    /// Build the release program
    Build,
    /// The demo
    Run,
    /// Everything that must pass
    Test,
    /// Unit tests
    Unit,
    /// End-to-end tests
    E2e {
        /// Part of a test's name
        focus: Option<String>,
    },
    /// End-to-end tests with their full counts
    Soak,
    /// Measure pods or pulls
    Bench(bench::Options),
    /// Arbitrary bytes for the parsers of what images hold
    Fuzz(fuzz::Options),
    /// Run critest in a node
    Critest(critest::Options),
    /// A Debian package
    Deb(deb::Options),
    /// Run a command in a machine of its own
    Guest(guest::Options),
    /// Upgrade, downgrade, removal and watchdog of the packaged service in the guest
    Service(service::Options),
    /// Take the pictures of the texts
    Pictures,
    /// Run a command in a node of its own
    Node(node::Options),
    /// Check what compilers do not
    Tidy,
    /// Format the sources
    Fmt,
    /// Clippy with warnings denied
    Lint,
    /// Licences and advisories of dependencies
    Deny,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With its causes, and without the backtrace that a developer may have asked cargo for.
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Build => build::release().map(|_| ()),
        Task::Deb(options) => deb::run(&options),
        Task::Run => demo::run(),
        Task::Test => suite::everything(),
        Task::Unit => suite::unit(),
        Task::E2e { focus } => suite::end_to_end(focus.as_deref()),
        Task::Soak => suite::soak(),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Critest(options) => critest::run(&options),
        Task::Guest(options) => guest::run(&options),
        Task::Service(options) => service::run(&options),
        Task::Node(options) => node::run(&options),
        Task::Pictures => pictures::run(),
        Task::Tidy => tidy::run(),
        Task::Fmt => build::cargo(&["fmt", "--all"]),
        Task::Lint => suite::lint(),
        Task::Deny => suite::deny(),
    }
}

/// The directory of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

/// A runtime for tasks that speak to registries and daemons.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
