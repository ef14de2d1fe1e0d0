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

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_names_lead_back_to_their_objects() -> Result<()> {
    let bed = Bed::make().await?;
    let path = program()?;
    let path = path.to_str().context("the program's path is no text")?;
    let coracle = |arguments: &[&str]| bed.node().run(path, arguments);
    let (one, _) = bed.idle_pod("one").await?;
    let (other, _) = bed.idle_pod("other").await?;
    let listed: serde_json::Value = serde_json::from_str(&coracle(&["ps", "-o", "json"])?)?;
    let image = listed[0]["image_id"].as_str().context("no image id")?;
    let of_image = |pattern: &str| coracle(&["ps", "-o", "name", "--filter", &format!("image={pattern}")]);
    assert_eq!(of_image(image)?.lines().count(), 2, "{image}");
    assert_eq!(of_image("sha256:0000")?, "");
    let names = coracle(&[
        "pods",
        "-o",
        "name",
        "--filter",
        "name=o*",
        "--filter",
        "name!=one",
    ])?;
    assert_eq!(names.lines().count(), 1, "{names}");
    holds(&coracle(&["inspect", names.trim()])?, &[other.id()]);
    assert_eq!(
        coracle(&["ps", "-o", "name", "--filter", "pod=one"])?
            .lines()
            .count(),
        1
    );
    let yaml = coracle(&["pods", "-o", "yaml"])?;
    holds(&yaml, &["  name: one\n", one.id()]);
    for (arguments, status, word) in [
        (&["inspect", "nothing-is-called-so"][..], 4, "next:"),
        (&["pods", "--filter", "colour=red"], 2, "known keys"),
        (&["--socket", "/run/none.sock", "ps"], 3, "coracle serve"),
        (
            &["--socket", "/run/none.sock", "exec", "one", "--", "true"],
            125,
            "no socket",
        ),
        (
            &["run", "--name", "one", "--detach", &bed.busybox],
            125,
            "has this name",
        ),
    ] {
        let output = bed.node().output(path, arguments)?;
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        holds(&String::from_utf8_lossy(&output.stderr), &[word]);
    }
    coracle(&["rm", "pod/default/one", other.id()])?;
    for pod in [one, other] {
        let _ = std::fs::remove_dir_all(pod.logs());
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_work_is_seen_by_command() -> Result<()> {
    let bed = Bed::make().await?;
    let path = program()?;
    let path = path.to_str().context("the program's path is no text")?;
    let coracle = |arguments: &[&str]| bed.node().run(path, arguments);
    let (pod, container) = bed.idle_pod("at-work").await?;
    holds(&coracle(&["top"])?, &["at-work", "CPU WAIT"]);
    let top: serde_json::Value = serde_json::from_str(&coracle(&["top", "-o", "json", "at-work"])?)?;
    assert_eq!(top[0]["id"], pod.id());
    assert_eq!(top[1]["id"], container.id());
    assert!(top[0]["memory_bytes"].as_u64() > Some(0), "{top}");
    assert_eq!(coracle(&["ops", "-o", "json"])?.trim(), "[]");
    let picture = coracle(&["explain", "at-work", "--svg"])?;
    holds(
        &picture,
        &["<svg ", "<desc id=\"desc\">", "RunPodSandbox took", "</svg>"],
    );
    let doctor: serde_json::Value = serde_json::from_str(&coracle(&["doctor", "-o", "json"])?)?;
    let found = doctor.as_array().context("a list")?;
    let daemon = found
        .iter()
        .find(|finding| finding["name"] == "daemon")
        .context("no daemon")?;
    assert_eq!(daemon["state"], "ok");
    coracle(&["rm", "at-work"])?;
    let _ = std::fs::remove_dir_all(pod.logs());
    bed.leave().await
}
