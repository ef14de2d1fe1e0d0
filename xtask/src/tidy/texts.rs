//! Texts for people: relative links lead somewhere, and `make` and `cargo xtask` know the commands.
//!
//! What follows `coracle` in the texts is checked by an end-to-end test, which has the program to ask.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::CommandFactory;
use coracle_testkit::prose;

use super::Findings;
use crate::{Arguments, workspace};

pub(super) fn check(files: &[PathBuf], findings: &mut Findings) -> Result<()> {
    let makefile = std::fs::read_to_string(workspace().join("Makefile"))?;
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    {
        let text = std::fs::read_to_string(workspace().join(path))?;
        for link in prose::relative_links(&text) {
            let directory = path.parent().unwrap_or(Path::new(""));
            if !workspace().join(directory).join(&link).exists() {
                findings.add(path, 0, format!("dead link: {link}"));
            }
        }
        for command in prose::commands(&text, &["make", "cargo xtask"]) {
            if !is_known(&command, &makefile) {
                findings.add(path, 0, format!("dead command: {command}"));
            }
        }
    }
    Ok(())
}

fn is_known(command: &str, makefile: &str) -> bool {
    // What stands in quotes is one word's value, as in CMD="ip a".
    let unquoted: String = command.split('"').step_by(2).collect();
    let mut words = unquoted.split_whitespace();
    match words.next() {
        Some("make") => words
            .filter(|word| !word.starts_with('-') && !word.contains('='))
            .all(|target| {
                makefile
                    .lines()
                    .any(|line| line.starts_with(&format!("{target}:")))
            }),
        Some("cargo") => words.nth(1).is_none_or(|task| {
            let arguments = Arguments::command();
            task.starts_with('-') || arguments.find_subcommand(task).is_some()
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn dead_commands_are_told_from_living_ones() {
        let makefile = "help: ## x\n\techo\ntest: setup\n";
        assert!(is_known("make", makefile) && is_known("make test CMD=\"ip a\" -j2", makefile));
        assert!(!is_known("make gone", makefile));
        assert!(is_known("cargo xtask node -- ls", makefile) && is_known("cargo xtask", makefile));
        assert!(!is_known("cargo xtask gone", makefile));
    }
}
