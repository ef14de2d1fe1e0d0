//! What make calls: setting up, checking, testing, the demo, nodes, conformance and measurements.
//!
//! Must be buildable before libseccomp is installed, so it depends on none of the crates that need it.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

mod bench;
mod build;
mod critest;
mod demo;
mod node;
mod peer;
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
    /// Measure pod starts, stops and execs
    Bench(bench::Options),
    /// Run critest in a node
    Critest(critest::Options),
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
        Task::Run => demo::run(),
        Task::Test => suite::everything(),
        Task::Unit => suite::unit(),
        Task::E2e { focus } => suite::end_to_end(focus.as_deref()),
        Task::Soak => suite::soak(),
        Task::Bench(options) => bench::run(&options),
        Task::Critest(options) => critest::run(&options),
        Task::Node(options) => node::run(&options),
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
