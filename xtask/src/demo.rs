//! The demo: in a node of its own, a real pull, a pod of two containers, a look at everything, and
//! nothing left afterwards.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use coracle_proto::cri::SecurityProfile;
use coracle_testkit::cri::{ContainerSpec, PodSpec, Runtime};
use coracle_testkit::image::{Compression, ImageBuilder, Layer};
use coracle_testkit::node::Node;
use coracle_testkit::registry::{Distribution, mirror};

use crate::{build, runtime, setup};

/// The registry's name in references; `hosts.toml` leads it to loopback.
const HOST: &str = "registry.demo";
const IMAGE: &str = "registry.demo/page:1";
const PORTS: [(&str, u16); 2] = [("page", 8080), ("second", 8081)];

/// Runs the demo.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let program = build::release()?;
    // The tests' rule for finding the program shall lead to this build.
    runtime()?.block_on(show(&program))
}

async fn show(program: &Path) -> Result<()> {
    tell("A node of its own: mounts, network, processes and cgroups that nobody else sees.");
    let node = Node::start()?;
    let registry = Distribution::start(&node).await?;
    mirror(&node, HOST, &registry.authority())?;
    let layer = Layer::new()
        .directory("/proc", 0o555)
        .directory("/sys", 0o555)
        .directory("/dev", 0o755)
        .host_file(program, "/coracle")?;
    let image = ImageBuilder::new()
        .layer(layer.build(), Compression::Gzip)
        .entrypoint(&["/coracle", "demo-page"])
        .build();
    registry.push(&image, "page", "1").await?;
    let daemon = node.daemon()?;
    let runtime = Runtime::of(&daemon).await?;
    runtime.ready().await?;
    println!(
        "node {}, registry on {}, daemon on {}",
        node.instance(),
        registry.authority(),
        node.socket().display()
    );

    tell("The demo image is this program itself; it comes from the registry as any image does.");
    coracle(&node, program, &["pull", IMAGE])?;

    tell("A pod of two containers, as the kubelet would ask for it.");
    let pod = runtime.run_pod(PodSpec::new("demo")).await.map_err(said)?;
    for (name, port) in PORTS {
        let spec = ContainerSpec::new(name, IMAGE, &[])
            .security(|security| security.seccomp = Some(SecurityProfile::default()))
            .with(|config| config.args = vec!["--port".to_owned(), port.to_string()]);
        pod.run(&spec).await.map_err(said)?;
    }
    coracle(&node, program, &["pods"])?;
    coracle(&node, program, &["ps"])?;

    let ip = pod.ip().await.map_err(said)?;
    for (_, port) in PORTS {
        let address = format!("{ip}:{port}");
        tell(&format!("The page of http://{address}/"));
        print!("{}", page(&node, &address).await?);
    }

    tell("A command in a container, and what the container printed.");
    coracle(&node, program, &["exec", "page", "--", "/coracle", "--version"])?;
    coracle(&node, program, &["logs", "page"])?;

    tell("Where the pod's start spent its time.");
    coracle(&node, program, &["explain", "demo"])?;

    tell("Taken away again; the audit compares the kernel with the books.");
    coracle(&node, program, &["rm", "demo"])?;
    coracle(&node, program, &["audit"])?;

    println!("\nNext: `make node START=1` gives a shell beside a daemon of its own; there try");
    println!("      coracle --help, or crictl when it is on PATH. `make test` runs everything.");
    Ok(())
}

fn tell(words: &str) {
    println!("\n\x1b[1m{words}\x1b[0m");
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the daemon answered {:?}: {}", status.code(), status.message())
}

/// Shows a command and runs it in the node, on this terminal.
fn coracle(node: &Node, program: &Path, arguments: &[&str]) -> Result<()> {
    println!("$ coracle {}", arguments.join(" "));
    build::run(node.command(program).args(arguments))
}

async fn page(node: &Node, address: &str) -> Result<String> {
    let (node, address) = (node.clone(), address.parse()?);
    tokio::task::spawn_blocking(move || {
        // A container is running a moment before its program listens.
        let mut stream = coracle_testkit::wait::until("the page", std::time::Duration::from_secs(5), || {
            Ok(node.connect(address).ok())
        })?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the page has no body")?;
        Ok(body.to_owned())
    })
    .await?
}
