//! Everything that must pass, in the order in which failures are cheapest.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use coracle_testkit::node::daemon::PROGRAM_VARIABLE;

use crate::build::{self, cargo};
use crate::fuzz;
use crate::guest::inside;
use crate::setup;
use crate::steps::Steps;
use crate::{tidy, workspace};

/// End-to-end tests read from this how hard to try; see the tests crate.
const SOAK_VARIABLE: &str = "CORACLE_SOAK";

/// What `make test` and so `.ci/run` does.
pub(crate) fn everything() -> Result<()> {
    let mut steps = Steps::new();
    steps.step("setup", setup::run)?;
    steps.step("tidy", tidy::run)?;
    steps.step("format", || cargo(&["fmt", "--all", "--check"]))?;
    steps.step("lint", lint)?;
    steps.step("unit tests", unit)?;
    steps.step("fuzzing", fuzz::short)?;
    let program = steps.step("build", build::dev)?;
    steps.step("end-to-end tests", || end_to_end_of(&program, None, false))?;
    steps.tell();
    Ok(())
}

/// Clippy with warnings denied.
pub(crate) fn lint() -> Result<()> {
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ])
}

/// Tests of all crates but the end-to-end ones.
pub(crate) fn unit() -> Result<()> {
    cargo(&["test", "--workspace", "--exclude", "coracle-tests", "--locked"])
}

/// End-to-end tests against a fresh build.
pub(crate) fn end_to_end(focus: Option<&str>) -> Result<()> {
    if inside::is_guest() {
        return inside::end_to_end(focus);
    }
    end_to_end_of(&build::dev()?, focus, false)
}

/// End-to-end tests with their full counts, of the release program.
pub(crate) fn soak() -> Result<()> {
    end_to_end_of(&build::release()?, None, true)
}

fn end_to_end_of(program: &Path, focus: Option<&str>, soak: bool) -> Result<()> {
    let mut command = Command::new("cargo");
    // Of the whole workspace, so that crates have the features with which the other tests were built.
    command.args(["test", "--workspace", "--locked"]);
    for group in groups()? {
        command.arg("--test").arg(group);
    }
    command.args(focus);
    command.env(PROGRAM_VARIABLE, program);
    if soak {
        command.env(SOAK_VARIABLE, "1").args(["--", "--nocapture"]);
    }
    build::run(&mut command)
}

/// End-to-end tests by name: files, and directories with a `main.rs`.
fn groups() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(workspace().join("tests/tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// cargo-deny, which is installed by nobody but the user.
pub(crate) fn deny() -> Result<()> {
    let installed = Command::new("cargo").args(["deny", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        bail!("cargo-deny is not installed: cargo install --locked cargo-deny");
    }
    cargo(&[
        "deny",
        "--all-features",
        "check",
        "licenses",
        "bans",
        "sources",
        "advisories",
    ])
}
