//! `coracle generate`: manual pages and completions, from the same definition as the parser.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::cli::{Cli, GenerateArgs, Generated};

/// Needs no daemon.
pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        Generated::Man { directory } => pages(directory)?,
        Generated::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command(), "coracle", &mut script);
            std::io::stdout().write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The definition, with what clap adds (`--help`) and without commands that are nobody's to call.
fn command() -> Command {
    let mut command = shown(Cli::command());
    command.build();
    command
}

fn shown(command: Command) -> Command {
    let hidden: Vec<_> = command
        .get_subcommands()
        .filter(|sub| sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    if hidden.is_empty() {
        return command;
    }
    let kept: Vec<_> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .cloned()
        .collect();
    // clap cannot take a command away: the root is made anew without it.
    let mut fresh = Command::new("coracle")
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(kept)
        .subcommand_required(true);
    if let Some(about) = command.get_about() {
        fresh = fresh.about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        fresh = fresh.after_help(after.clone());
    }
    fresh
}

fn pages(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    page(&command(), "coracle", directory)
}

/// `coracle-config-check.1` is the page of `coracle config check`.
fn page(command: &Command, name: &str, directory: &Path) -> anyhow::Result<()> {
    let manual = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("1")
        .source(concat!("coracle ", env!("CARGO_PKG_VERSION")))
        .manual("Coracle");
    let mut text = Vec::new();
    manual.render(&mut text)?;
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        page(sub, &format!("{name}-{}", sub.get_name()), directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        pages(directory.path()).unwrap();
        let main = std::fs::read_to_string(directory.path().join("coracle.1")).unwrap();
        for sub in Cli::command().get_subcommands() {
            let page = directory.path().join(format!("coracle-{}.1", sub.get_name()));
            assert_eq!(page.exists(), !sub.is_hide_set(), "{}", sub.get_name());
            if !sub.is_hide_set() {
                assert!(
                    main.contains(&sub.get_name().replace('-', "\\-")),
                    "{}",
                    sub.get_name()
                );
                let page = std::fs::read_to_string(page).unwrap();
                assert!(
                    page.contains("coracle\\-") && page.contains(".SH SYNOPSIS"),
                    "{page}"
                );
            }
        }
        assert!(directory.path().join("coracle-config-check.1").exists());
    }

    #[test]
    fn each_shell_gets_the_commands_that_are_shown() {
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "coracle", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("pull") && script.contains("doctor"), "{shell}");
            assert!(
                !script.contains("demo-page") && !script.contains("keeper "),
                "{shell}"
            );
        }
    }
}
