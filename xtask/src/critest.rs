//! The conformance suite of cri-tools, in a node, against images of our own making.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use coracle_testkit::census::Census;
use coracle_testkit::cni;
use coracle_testkit::cri::{ContainerSpec, PodSpec, Runtime};
use coracle_testkit::image::critest::{HOSTS, push_all};
use coracle_testkit::node::Node;
use coracle_testkit::registry::{Distribution, mirror};
use serde::Deserialize;

use crate::peer::{self, find_on_path};
use crate::{build, runtime, setup, workspace};

/// Names an image by a digest that nobody but its author can make: it cannot be served from here.
const CANNOT_BE_SERVED: &str = "public image with digest should be pulled and removed";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only specs that match this pattern
    #[arg(long, default_value = "")]
    focus: String,
    /// No specs that match this pattern
    #[arg(long, default_value = "")]
    skip: String,
    /// How often, in one daemon's life
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Leave /etc/cni/net.d empty, so that the daemon makes its default network
    #[arg(long)]
    default_network: bool,
    /// Of containerd instead, to tell a fault of ours from one of the images or the machine
    #[arg(long)]
    peer: bool,
    /// Further arguments of critest
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// One spec, as ginkgo's JSON report tells of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    leaf_node_type: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    spec_reports: Vec<Spec>,
}

/// Runs the suite and tells what passed; fails when a spec fails or something is left behind.
pub(crate) fn run(options: &Options) -> Result<()> {
    let program = find_on_path("critest").context(
        "critest is not on PATH: build it from github.com/kubernetes-sigs/cri-tools (make critest)",
    )?;
    setup::run()?;
    if !options.peer {
        build::release()?;
    }
    runtime()?.block_on(suite(options, &program))
}

async fn suite(options: &Options, program: &Path) -> Result<()> {
    let node = Node::start()?;
    let registry = Distribution::start(&node).await?;
    println!("Pushing critest's images to {} ...", registry.authority());
    push_all(&registry.client()).await?;
    for host in HOSTS {
        mirror(&node, host, &registry.authority())?;
    }
    if !options.default_network {
        cni::bridge(&node, "10.88.0.0/16")?;
    }
    let (service, daemon, socket) = if options.peer {
        (Some(peer::containerd(&node)?), None, PathBuf::from(peer::SOCKET))
    } else {
        (None, Some(node.daemon()?), node.socket())
    };
    let runtime = Runtime::connect(&node.path(&socket), &node.directory().join("logs")).await?;
    runtime.ready().await?;
    warm_up(&runtime).await?;
    drop(runtime);
    let before = Census::quiet(&node)?;

    println!(
        "The spec {CANNOT_BE_SERVED:?} is left out: its image is named by a digest that cannot be rebuilt."
    );
    let directory = workspace().join("target/critest");
    std::fs::create_dir_all(&directory)?;
    let mut failed = 0;
    for run in 1..=options.runs {
        let specs = one_run(options, program, (&node, &socket), &directory)?;
        failed += tell(run, &specs);
    }
    println!("critest's own words: {}", directory.join("log.txt").display());
    let log = directory.join("daemon.txt");
    let source = if options.peer {
        "containerd.log"
    } else {
        "daemon.log"
    };
    std::fs::copy(node.directory().join(source), &log)?;
    println!("the daemon's log: {}", log.display());

    let diff = before.diff(&Census::settled(&node, &before)?);
    if !diff.is_empty() {
        bail!("the census differs:\n{diff}");
    }
    drop((service, daemon));
    println!("The census is the same before and after.");
    if failed > 0 {
        bail!("{failed} specs failed");
    }
    Ok(())
}

/// What the daemon makes once (bridge, keeper) is there before the first census.
async fn warm_up(runtime: &Runtime) -> Result<()> {
    let image = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
    runtime.pull(image).await?;
    let pod = runtime
        .run_pod(PodSpec::new("warm-up").publish(12999, 80))
        .await?;
    pod.run(&ContainerSpec::new("true", image, &["true"]))
        .await?
        .exited()
        .await?;
    pod.remove().await?;
    runtime.remove_image(image).await?;
    Ok(())
}

fn one_run(
    options: &Options,
    program: &Path,
    (node, socket): (&Node, &Path),
    directory: &Path,
) -> Result<Vec<Spec>> {
    let report = directory.join("report.json");
    let _ = std::fs::remove_file(&report);
    let log = File::create(directory.join("log.txt"))?;
    let mut command = node.command(program);
    command
        .arg(format!("-runtime-endpoint=unix://{}", socket.display()))
        .arg(format!("-ginkgo.json-report={}", report.display()))
        .args(["-ginkgo.no-color", "-ginkgo.skip", CANNOT_BE_SERVED]);
    for (flag, pattern) in [("-ginkgo.focus", &options.focus), ("-ginkgo.skip", &options.skip)] {
        if !pattern.is_empty() {
            command.args([flag, pattern]);
        }
    }
    command
        .args(&options.arguments)
        .stdout(log.try_clone()?)
        .stderr(log);
    let status = command.status().context("cannot run nsenter for critest")?;
    let text = std::fs::read(&report).with_context(|| {
        format!(
            "critest ({status}) left no report; its words are in {}",
            directory.join("log.txt").display()
        )
    })?;
    let reports: Vec<Report> = serde_json::from_slice(&text).context("ginkgo's report")?;
    let specs = reports.into_iter().flat_map(|report| report.spec_reports);
    Ok(specs.filter(|spec| spec.leaf_node_type == "It").collect())
}

/// Prints the lists; gives the number of failures.
fn tell(run: u32, specs: &[Spec]) -> usize {
    let by = |state: &[&str]| {
        specs
            .iter()
            .filter(|spec| state.contains(&spec.state.as_str()))
            .collect::<Vec<_>>()
    };
    let passed = by(&["passed"]);
    let failed = by(&["failed", "panicked", "interrupted", "aborted", "timedout"]);
    // Specs that the pattern leaves out are "skipped" too, but without words.
    let skipped: Vec<_> = by(&["skipped"])
        .into_iter()
        .filter(|spec| !spec.failure.message.is_empty())
        .collect();
    println!(
        "\nRun {run}: {} passed, {} failed, {} skipped themselves",
        passed.len(),
        failed.len(),
        skipped.len()
    );
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for spec in &passed {
        let (group, name) = names(spec);
        groups.entry(group).or_default().push(name);
    }
    for (group, names) in &groups {
        println!("  {group}: {}", names.len());
        for name in names {
            println!("    ok      {name}");
        }
    }
    for (word, specs) in [("FAILED", &failed), ("skipped", &skipped)] {
        for spec in specs {
            let (group, name) = names(spec);
            let reason: String = spec.failure.message.chars().take(400).collect();
            println!(
                "  {word} {group}: {name}\n          {}",
                reason.replace('\n', "\n          ")
            );
        }
    }
    failed.len()
}

/// The first level of ginkgo's containers is the group; the rest and the spec's text are its name.
fn names(spec: &Spec) -> (String, String) {
    let texts = spec.container_hierarchy_texts.as_deref().unwrap_or_default();
    let group = texts
        .first()
        .map_or("", String::as_str)
        .trim_start_matches("[k8s.io] ")
        .to_owned();
    let mut name: Vec<&str> = texts.iter().skip(1).map(String::as_str).collect();
    name.push(&spec.leaf_node_text);
    (group, name.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_ginkgo_is_read() {
        let text = r#"[{"SuitePath":"x","SpecReports":[
            {"ContainerHierarchyTexts":["[k8s.io] Container","basic"],"LeafNodeType":"It",
             "LeafNodeText":"starts","State":"failed","Failure":{"Message":"no"}},
            {"ContainerHierarchyTexts":null,"LeafNodeType":"BeforeSuite","LeafNodeText":"","State":"passed"}]}]"#;
        let reports: Vec<Report> = serde_json::from_str(text).unwrap();
        let spec = &reports[0].spec_reports[0];
        assert_eq!(names(spec), ("Container".to_owned(), "basic starts".to_owned()));
        assert_eq!(tell(1, &reports[0].spec_reports), 1);
    }
}
