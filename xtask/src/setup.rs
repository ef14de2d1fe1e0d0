//! Installs what is lacking of Debian's packages; says so, and asks for no network when nothing lacks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::guest::inside;

/// The only place that names packages.
pub(crate) const PACKAGES: &str = include_str!("../packages.txt");

/// While packages are installed this file keeps their daemons (nginx, docker-registry) from starting.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is lacking. A guest was made with all of it, and has no network.
pub(crate) fn run() -> Result<()> {
    if inside::is_guest() {
        return Ok(());
    }
    ensure(&packages().collect::<Vec<_>>())?;
    // So that everything works without the network from now on.
    build::cargo(&["fetch", "--locked", "--quiet"])
}

/// Installs what is lacking of these.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        println!("All of Debian's packages that are needed are installed.");
    } else {
        println!("Installing by apt-get: {}", missing.join(" "));
        ensure!(
            Path::new("/usr/bin/apt-get").exists(),
            "this is no Debian: install what the packages above hold in your system's own way"
        );
        install(&missing)?;
    }
    Ok(())
}

/// The packages' names.
fn packages() -> impl Iterator<Item = &'static str> {
    PACKAGES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output()
        .context("cannot run dpkg-query, which tells what is installed: this is no Debian")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = |name: &str| text.lines().any(|line| line == format!("{name} installed"));
    Ok(packages.iter().copied().filter(|name| !installed(name)).collect())
}

fn install(packages: &[&str]) -> Result<()> {
    ensure!(is_root(), "installing packages needs root");
    let _quiet = NoDaemons::new()?;
    // Package lists may be absent (container images) or too old for the archive.
    if has_lists() && apt(&["install", "-y", "-q", "--no-install-recommends"], packages).is_ok() {
        return Ok(());
    }
    apt(&["update", "-q"], &[])?;
    apt(&["install", "-y", "-q", "--no-install-recommends"], packages)
}

fn apt(arguments: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    build::run(
        command
            .args(arguments)
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn has_lists() -> bool {
    let entries = std::fs::read_dir("/var/lib/apt/lists")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .into_iter()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout == b"0\n")
}

/// Forbids the start of daemons (invoke-rc.d's policy layer) until dropped.
struct NoDaemons(Option<PathBuf>);

impl NoDaemons {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let path = PathBuf::from(POLICY);
        if path.exists() {
            return Ok(Self(None));
        }
        std::fs::write(&path, "#!/bin/sh\nexit 101\n")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_says_what_needs_it() {
        for line in PACKAGES.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(
                matches!(words.get(1), Some(&("linker" | "build" | "node" | "test"))),
                "{line}"
            );
            assert!(words.len() > 3, "{line}");
        }
    }
}
