//! Calling cargo, and the release program that it builds.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use coracle_testkit::node::daemon::{self, PROGRAM_VARIABLE};

use crate::workspace;

/// Where the configuration's explicit target puts release programs.
pub(crate) const RELEASE: &str = "target/x86_64-unknown-linux-gnu/release";

/// Runs cargo in the workspace, its output on this terminal.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    run(Command::new("cargo").args(arguments))
}

/// Runs a command in the workspace, its output on this terminal; anything but exit code 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .current_dir(workspace())
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    ensure!(
        status.success(),
        "{} {}: {status}",
        command.get_program().display(),
        words.join(" ")
    );
    Ok(())
}

/// Where it puts programs that are made for tests.
const DEV: &str = "target/x86_64-unknown-linux-gnu/debug";

/// Builds the program as tests are built, of what these are made of already; gives its path. It finds more than
/// the release program, since it checks its arithmetic. A program that `CORACLE_PROGRAM` names is taken as it is.
pub(crate) fn dev() -> Result<PathBuf> {
    program(&["build", "--workspace", "--bin", "coracle", "--locked"], DEV)
}

/// Builds the release program; gives its path. A program that `CORACLE_PROGRAM` names is taken as it is.
pub(crate) fn release() -> Result<PathBuf> {
    program(&["build", "--release", "--package", "coracle"], RELEASE)
}

fn program(arguments: &[&str], directory: &str) -> Result<PathBuf> {
    if std::env::var_os(PROGRAM_VARIABLE).is_some() {
        let program = daemon::program()?;
        println!(
            "{PROGRAM_VARIABLE} names {}: nothing is built.",
            program.display()
        );
        return Ok(program);
    }
    cargo(arguments)?;
    Ok(workspace().join(directory).join("coracle"))
}
