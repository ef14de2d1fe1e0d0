//! The guest's side: tasks that cargo does on the host are done with what was carried in.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{CARRIED, GUEST_VARIABLE};
use crate::workspace;

/// Whether this runs in a guest.
pub(crate) fn is_guest() -> bool {
    std::env::var_os(GUEST_VARIABLE).is_some()
}

/// End-to-end tests, as `cargo test` runs them: one program after the other, all of them although some fail.
pub(crate) fn end_to_end(focus: Option<&str>) -> Result<()> {
    let directory = Path::new(CARRIED).join("tests");
    let mut tests: Vec<PathBuf> = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    ensure!(
        !tests.is_empty(),
        "no tests were carried in: the command on the host must speak of e2e"
    );
    tests.sort();
    let mut failed = Vec::new();
    for test in &tests {
        let name = test
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // `lifecycle` picks a program, `lifecycle::x` or `x` tests by their names.
        let (only, filter) = choice(focus, &name);
        if !only {
            continue;
        }
        println!("\n     Running {name}");
        let status = Command::new(test)
            .args(filter)
            .current_dir(workspace().join("tests"))
            // The library of snapshots would ask cargo where they are.
            .env("INSTA_WORKSPACE_ROOT", workspace())
            .status()
            .with_context(|| format!("cannot run {}", test.display()))?;
        if !status.success() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("tests failed in: {}", failed.join(", "));
    }
    Ok(())
}

/// Whether a test program is to run under this focus, and with which filter.
fn choice<'a>(focus: Option<&'a str>, program: &str) -> (bool, Option<&'a str>) {
    match focus.and_then(|focus| focus.split_once("::").map(|parts| (focus, parts))) {
        None if focus == Some(program) => (true, None),
        None => (true, focus),
        Some((_, (name, filter))) => (name == program, Some(filter).filter(|filter| !filter.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_focus_is_part_of_a_tests_name_or_names_its_program() {
        assert_eq!(choice(None, "events"), (true, None));
        assert_eq!(choice(Some("exit"), "events"), (true, Some("exit")));
        assert_eq!(choice(Some("events::"), "events"), (true, None));
        assert_eq!(choice(Some("events::exit"), "events"), (true, Some("exit")));
        assert!(!choice(Some("events::exit"), "images").0);
    }
}
