//! The commands that people type, in the texts and on a socket. Needs root.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use coracle_testkit::node::daemon::program;
use coracle_testkit::prose;
use coracle_tests::Bed;
use coracle_tests::checks::holds;

#[test]
fn every_command_in_the_texts_is_known_to_the_program() -> Result<()> {
    let program = program()?;
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    let mut texts = vec![
        top.join("README.md"),
        top.join("ARCHITECTURE.md"),
        top.join("CONTRIBUTING.md"),
    ];
    for entry in std::fs::read_dir(top.join("docs")).into_iter().flatten() {
        texts.push(entry?.path());
    }
    let texts = texts
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "md") && path.exists());
    for path in texts {
        for command in prose::commands(&std::fs::read_to_string(&path)?, &["coracle"]) {
            let Some(subcommand) = command
                .split_whitespace()
                .nth(1)
                .filter(|word| !word.starts_with('-'))
            else {
                continue;
            };
            let output = Command::new(&program).args([subcommand, "--help"]).output()?;
            assert!(
                output.status.success(),
                "{}: dead command: {command}",
                path.display()
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_seen_and_handled_by_command() -> Result<()> {
    let bed = Bed::make().await?;
    let path = program()?;
    let path = path.to_str().context("the program's path is no text")?;
    let coracle = |arguments: &[&str]| bed.node().run(path, arguments);
    let (pod, container) = bed.idle_pod("by-hand").await?;
    holds(&coracle(&["pods"])?, &["by-hand", &pod.id()[..13]]);
    holds(&coracle(&["ps"])?, &["by-hand", &container.id()[..13]]);
    holds(&coracle(&["images"])?, &["registry.test/busybox"]);
    assert_eq!(coracle(&["exec", "by-hand", "--", "echo", "hello"])?, "hello\n");
    let json: serde_json::Value = serde_json::from_str(&coracle(&["ps", "-o", "json"])?)?;
    holds(&json.to_string(), &[container.id()]);
    holds(&coracle(&["inspect", container.id()])?, &[container.id()]);
    holds(&coracle(&["explain", "by-hand"])?, &["ms"]);
    coracle(&["audit"])?;
    coracle(&["rm", "by-hand"])?;
    assert!(bed.runtime.list_pods().await?.is_empty());
    let output = bed.node().output(path, &["inspect", "no-such-thing"])?;
    assert!(!output.status.success());
    holds(&String::from_utf8_lossy(&output.stderr), &["no-such-thing"]);
    let _ = std::fs::remove_dir_all(pod.logs());
    bed.leave().await
}
