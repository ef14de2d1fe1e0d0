//! `make service`: the packaged service under systemd, from the package of the commit before to this one's and
//! back, with pods that count. Needs the guest, and a release build of each commit when none is given.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use coracle_testkit::image::debian;

use crate::{build, deb, guest, workspace};

/// Older than this workspace's version, whatever that is (deb-version(7)).
const BEFORE: &str = concat!(env!("CARGO_PKG_VERSION"), "~before");

#[derive(Args)]
pub(crate) struct Options {
    /// The commit whose package is upgraded
    #[arg(long, default_value = "HEAD~1")]
    before: String,
    /// Its program, when there is one already: nothing is built of that commit
    #[arg(long, value_name = "PROGRAM")]
    before_program: Option<PathBuf>,
    /// How many pods run meanwhile
    #[arg(long, default_value_t = 20)]
    pods: u32,
}

/// Builds both packages and lives through all of it in the guest.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place = workspace().join("target/service");
    std::fs::create_dir_all(&place)?;
    let (before, now) = (place.join("before"), place.join("now"));
    for directory in [&before, &now] {
        // Of packages of other versions nobody knows which is meant.
        let _ = std::fs::remove_dir_all(directory);
    }
    deb::run(&deb::Options::of(None, None, now.clone()))?;
    match &options.before_program {
        Some(program) => {
            let version = Some(BEFORE.to_owned());
            deb::run(&deb::Options::of(version, Some(program.clone()), before.clone()))?;
        }
        None => of_commit(&options.before, &place, &before)?,
    }
    let layout = place.join("layout");
    let _ = std::fs::remove_dir_all(&layout);
    std::fs::create_dir_all(&layout)?;
    debian::busybox()?.write_layout(&layout, "busybox:1")?;
    let script = workspace().join("packaging/service-test.sh");
    let command = format!(
        "bash /carried/files/service-test.sh /carried/files/{} /carried/files/{} /carried/files/layout {}",
        carried(&before)?,
        carried(&now)?,
        options.pods
    );
    let carry = vec![only(&before)?, only(&now)?, layout, script];
    guest::run(&guest::Options::bare(command, carry))
}

/// Checks the commit out, and has it build its own package by its own rules.
fn of_commit(commit: &str, place: &Path, out: &Path) -> Result<()> {
    let tree = place.join("tree");
    let git = |arguments: &[&str]| build::run(Command::new("git").args(arguments));
    let path = tree.to_str().context("the workspace's path is not UTF-8")?;
    if tree.exists() {
        git(&["-C", path, "checkout", "--quiet", "--detach", &revision(commit)?])?;
    } else {
        git(&["worktree", "prune"])?;
        git(&["worktree", "add", "--quiet", "--detach", path, commit])?;
    }
    println!("The package of {commit}, built in {path}:");
    let status = Command::new("cargo")
        .args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--",
            "deb",
            "--version",
            BEFORE,
            "--out",
        ])
        .arg(out)
        .current_dir(&tree)
        // Kept apart from this tree's, and for the next time.
        .env("CARGO_TARGET_DIR", place.join("target"))
        .env_remove(coracle_testkit::node::daemon::PROGRAM_VARIABLE)
        .status()
        .context("cannot run cargo")?;
    ensure!(
        status.success(),
        "the package of {commit} was not built: {status}"
    );
    Ok(())
}

/// The commit's number: in a work tree of its own `HEAD` is another one.
fn revision(commit: &str) -> Result<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--verify", &format!("{commit}^{{commit}}")])
        .current_dir(workspace())
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "{commit} is no commit");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The one package of a directory.
fn only(directory: &Path) -> Result<PathBuf> {
    let mut found = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    found.retain(|path| path.extension().is_some_and(|end| end == "deb"));
    ensure!(
        found.len() == 1,
        "{}: {} packages",
        directory.display(),
        found.len()
    );
    found.pop().context("a package")
}

fn carried(directory: &Path) -> Result<String> {
    let package = only(directory)?;
    let name = package.file_name().context("a name")?;
    Ok(name.to_string_lossy().into_owned())
}
