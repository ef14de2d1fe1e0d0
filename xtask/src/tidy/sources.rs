//! Rust sources: first line, size, names, unsafe code, unfinished corners.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Findings;
use crate::workspace;

/// A file with more lines wants splitting.
const LINES: usize = 600;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 7] = ["common", "helper", "helpers", "inner", "misc", "prelude", "util"];

/// Not run with the tests, as it asserts nothing: a measurement for people.
const MEASUREMENT: &str = "= \"a measurement\"]";

/// What must not stay in a source, and why. Built of two halves so that this file passes.
const LEFT_OVERS: [(&str, &str, &str); 7] = [
    ("todo", "!(", "unfinished"),
    ("unimplemented", "!(", "unfinished"),
    ("FIX", "ME", "unfinished"),
    ("#[igno", "re", "a test that nobody runs"),
    ("/work/ma", "in", "a path of somebody's machine"),
    ("/work/sha", "red", "a path of somebody's machine"),
    ("/opt/pe", "ers", "a path of somebody's machine"),
];

pub(super) fn check(files: &[PathBuf], findings: &mut Findings) -> Result<()> {
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
    {
        let text = std::fs::read_to_string(workspace().join(path))?;
        judge(path, &text, findings);
    }
    Ok(())
}

fn judge(path: &Path, text: &str, findings: &mut Findings) {
    if !text.starts_with("//! ") {
        findings.add(
            path,
            1,
            "the first line does not say the file's purpose (//! ...)",
        );
    }
    let count = text.lines().count();
    if count > LINES {
        findings.add(
            path,
            0,
            format!("{count} lines; more than {LINES} want splitting"),
        );
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if EMPTY_NAMES.contains(&stem.as_ref()) {
        findings.add(path, 0, format!("the name {stem} says nothing of what is inside"));
    }
    if stem == "mod" {
        findings.add(path, 0, "write foo.rs beside foo/, not foo/mod.rs");
    }
    let may_be_unsafe = path.starts_with("crates/coracle-sys") || is_freestanding(text);
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let place = number + 1;
        if !may_be_unsafe && has_unsafe(code) {
            findings.add(path, place, "unsafe code lives in coracle-sys only");
        }
        if code.trim_start().starts_with("pub use ") && code.contains("::*;") {
            findings.add(path, place, "a glob re-export hides what is public");
        }
        for (first, second, why) in LEFT_OVERS {
            if line.contains(&format!("{first}{second}")) && !line.trim_end().ends_with(MEASUREMENT) {
                findings.add(path, place, format!("{first}{second}: {why}"));
            }
        }
    }
}

/// A program without the standard library is no crate of the workspace and cannot use coracle-sys.
fn is_freestanding(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "#![no_std]")
}

fn has_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
        .iter()
        .any(|form| code.contains(form))
        && !code.contains('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(path: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        judge(Path::new(path), text, &mut findings);
        findings.0
    }

    #[test]
    fn each_rule_finds_its_case_and_only_that() {
        let good = "//! Says it.\nfn f() {}\n";
        assert!(judged("crates/a/src/b.rs", good).is_empty());
        assert_eq!(judged("crates/a/src/b.rs", "fn f() {}\n").len(), 1);
        assert_eq!(judged("crates/a/src/util.rs", good).len(), 1);
        assert_eq!(judged("crates/a/src/b/mod.rs", good).len(), 1);
        let long = format!("{good}{}", "\n".repeat(600));
        assert_eq!(judged("crates/a/src/b.rs", &long).len(), 1);
        let block = format!("{good}fn g() {{ {} }}\n", "unsafe { h() }");
        assert_eq!(judged("crates/a/src/b.rs", &block).len(), 1);
        assert!(judged("crates/coracle-sys/src/b.rs", &block).is_empty());
        assert!(judged("crates/a/src/b.rs", &format!("{block}#![no_std]\n")).is_empty());
        assert_eq!(
            judged("crates/a/src/b.rs", &format!("{good}pub use a::*;\n")).len(),
            1
        );
        let (first, second, _) = LEFT_OVERS[0];
        assert_eq!(
            judged("crates/a/src/b.rs", &format!("{good}{first}{second})\n")).len(),
            1
        );
    }
}
