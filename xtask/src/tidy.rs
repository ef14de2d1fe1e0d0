//! Checks what compilers do not: the direction of arrows between crates, what each file begins with,
//! sizes, words, and whether the texts' links and commands are alive.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

mod layers;
mod sources;
mod texts;

/// What is wrong, each with its place.
#[derive(Debug, Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, place: &Path, line: usize, words: impl AsRef<str>) {
        self.0.push(match line {
            0 => format!("{}: {}", place.display(), words.as_ref()),
            line => format!("{}:{line}: {}", place.display(), words.as_ref()),
        });
    }
}

/// Runs all checks; fails with everything that was found.
pub(crate) fn run() -> Result<()> {
    let mut findings = Findings::default();
    let files = files()?;
    layers::check(&mut findings)?;
    sources::check(&files, &mut findings)?;
    texts::check(&files, &mut findings)?;
    if findings.0.is_empty() {
        println!("Tidy: {} files.", files.len());
        return Ok(());
    }
    for finding in &findings.0 {
        println!("{finding}");
    }
    bail!("{} findings", findings.0.len())
}

/// What git tracks or would track, relative to the workspace.
fn files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(workspace())
        .output()
        .context("cannot run git")?;
    let text = String::from_utf8(output.stdout)?;
    let mut files: Vec<PathBuf> = text
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|path| workspace().join(path).is_file())
        .collect();
    if files.is_empty() {
        // An unpacked archive has no git: look at the usual places.
        for place in ["crates", "testkit", "tests", "xtask", "docs"] {
            walk(Path::new(place), &mut files)?;
        }
        files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(PathBuf::from));
        files.retain(|path| workspace().join(path).is_file());
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(workspace().join(directory)) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
