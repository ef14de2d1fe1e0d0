//! What is carried into the guest, as a disk that is mounted at /carried.
//!
//! `bin/` (our programs), `peers/` (programs that are on this machine's PATH), `tests/`, `files/` (what the
//! caller named), `workspace/` (the sources, and programs that tests find by path), `order.sh` with
//! `order` (the command), `environment` and `seed`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use coracle_testkit::cni;
use coracle_testkit::node::daemon::PROGRAM_VARIABLE;

use super::{CARRIED, GUEST_VARIABLE, Options, cargo};
use crate::peer::find_on_path;
use crate::{build, workspace};

const ORDER: &str = include_str!("order.sh");

/// Programs that are carried in when this machine has them.
const PEERS: [&str; 5] = [
    "critest",
    "crictl",
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
];

/// Variables of this family are the same inside.
const FAMILY: &str = "CORACLE_";

/// Fills a directory with all that the command needs.
pub(super) fn gather(options: &Options, directory: &Path) -> Result<()> {
    for name in ["bin", "peers", "tests", "files", "workspace"] {
        std::fs::create_dir_all(directory.join(name))?;
    }
    let bin = directory.join("bin");
    if !options.bare {
        copy(&build::release()?, &bin.join("coracle"))?;
    }
    copy(&std::env::current_exe()?, &bin.join("xtask"))?;
    if wants_tests(&options.command) {
        tests(directory)?;
    }
    peers(&directory.join("peers"))?;
    for path in &options.carry {
        let name = path.file_name().context("--carry names no file")?;
        let status = Command::new("cp")
            .arg("-a")
            .arg(path)
            .arg(directory.join("files").join(name))
            .status()?;
        ensure!(status.success(), "cannot carry {} in", path.display());
    }
    std::fs::write(directory.join("order.sh"), ORDER)?;
    std::fs::write(directory.join("order"), format!("{}\n", options.command))?;
    let own = std::env::vars().filter(|(name, _)| name.starts_with(FAMILY));
    std::fs::write(directory.join("environment"), environment(own))?;
    let mut seed = [0; 64];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    std::fs::write(directory.join("seed"), seed)?;
    Ok(())
}

/// Tests are built only for a command that speaks of them.
fn wants_tests(command: &str) -> bool {
    command
        .split(|letter: char| !letter.is_alphanumeric())
        .any(|word| word == "e2e")
}

/// End-to-end tests under their plain names; sources and other programs where they are on this machine.
fn tests(directory: &Path) -> Result<()> {
    for built in cargo::programs(&["test", "--no-run", "--package", "coracle-tests"])? {
        if built.test {
            copy(&built.path, &directory.join("tests").join(&built.name))?;
        } else if let Ok(below) = built.path.strip_prefix(workspace()) {
            copy(&built.path, &directory.join("workspace").join(below))?;
        }
    }
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace())
        .output()
        .context("cannot run git, which tells what the sources are")?;
    for name in listed.stdout.split(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(name);
        let from = workspace().join(name.as_ref());
        if from.is_file() {
            copy(&from, &directory.join("workspace").join(name.as_ref()))?;
        }
    }
    Ok(())
}

fn peers(directory: &Path) -> Result<()> {
    for name in PEERS {
        if let Some(path) = find_on_path(name) {
            copy(&path, &directory.join(name))?;
        }
    }
    // Debian's own plugins are inside already.
    let plugins = cni::plugin_directories();
    for own in plugins.iter().filter(|path| !path.starts_with("/usr")) {
        for name in ["bridge", "host-local", "loopback", "portmap"] {
            let path = own.join(name);
            if path.is_file() {
                copy(&path, &directory.join(name))?;
            }
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A link costs nothing, but may be asked for across file systems or of a program that is replaced.
    std::fs::copy(from, to).with_context(|| format!("cannot carry {} in", from.display()))?;
    Ok(())
}

/// A shell's words that set the guest's environment.
fn environment(own: impl Iterator<Item = (String, String)>) -> String {
    let mut values: Vec<(String, String)> = own
        .filter(|(name, _)| name != PROGRAM_VARIABLE && name != super::COMMAND_VARIABLE)
        .collect();
    let carried = PathBuf::from(CARRIED);
    values.push((
        PROGRAM_VARIABLE.to_owned(),
        carried.join("bin/coracle").display().to_string(),
    ));
    values.push((GUEST_VARIABLE.to_owned(), "1".to_owned()));
    values.push((
        "WORKSPACE".to_owned(),
        // Without the slash that the name ends with.
        workspace()
            .components()
            .collect::<PathBuf>()
            .display()
            .to_string(),
    ));
    values.sort();
    values.dedup_by(|later, earlier| later.0 == earlier.0);
    values
        .iter()
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_carried_for_commands_that_speak_of_them() {
        for command in ["e2e", "e2e lifecycle", "date; e2e x", "time e2e && true"] {
            assert!(wants_tests(command), "{command}");
        }
        for command in ["", "critest --focus x", "ls /e2eish"] {
            assert!(!wants_tests(command), "{command}");
        }
    }

    #[test]
    fn the_environment_is_a_shells_own_words() {
        let own = [
            ("CORACLE_SOAK", "it's"),
            (PROGRAM_VARIABLE, "/here/coracle"),
            (super::super::COMMAND_VARIABLE, "e2e"),
        ];
        let text = environment(
            own.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        assert!(text.contains("export CORACLE_SOAK='it'\\''s'\n"), "{text}");
        assert!(
            text.contains("export CORACLE_PROGRAM='/carried/bin/coracle'\n"),
            "{text}"
        );
        assert!(!text.contains("/here/") && !text.contains("e2e"), "{text}");
        assert!(text.contains(&format!("export {GUEST_VARIABLE}='1'\n")), "{text}");
    }
}
