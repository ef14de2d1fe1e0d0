//! What cargo built: programs and tests, read from its messages.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::workspace;

/// A program that cargo made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Built {
    /// The target's name.
    pub(super) name: String,
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Whether it is a test.
    pub(super) test: bool,
}

#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Runs cargo with JSON messages; gives all programs that it built or found fresh.
pub(super) fn programs(arguments: &[&str]) -> Result<Vec<Built>> {
    let output = Command::new("cargo")
        .args(arguments)
        .args(["--locked", "--quiet", "--message-format=json-render-diagnostics"])
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo {}: {}",
        arguments.join(" "),
        output.status
    );
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

fn read(text: &str) -> Vec<Built> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| {
            Some(Built {
                name: message.target?.name,
                path: message.executable?,
                test: message.profile?.test,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_tests_are_found_among_cargos_messages() {
        let text = r#"{"reason":"compiler-artifact","target":{"name":"lib"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"lifecycle"},"profile":{"test":true},"executable":"/t/lifecycle-1"}
{"reason":"compiler-artifact","target":{"name":"attacker"},"profile":{"test":false},"executable":"/t/attacker"}
{"reason":"build-finished","success":true}"#;
        let built = |name: &str, path: &str, test| Built {
            name: name.to_owned(),
            path: path.into(),
            test,
        };
        assert_eq!(
            read(text),
            [
                built("lifecycle", "/t/lifecycle-1", true),
                built("attacker", "/t/attacker", false)
            ]
        );
    }
}
