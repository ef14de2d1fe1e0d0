//! Pictures for the texts: the real program in a node, on a terminal of a known size, drawn as SVG.
//!
//! What it prints is read by a terminal emulator, and what the emulator then shows is drawn: colours as the
//! program meant them, in a light and a dark palette, every line of text selectable.

mod svg;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_testkit::cri::{ContainerSpec, PodSpec, Runtime};
use coracle_testkit::image::{Compression, ImageBuilder, Layer, debian};
use coracle_testkit::node::{Node, daemon};
use coracle_testkit::registry::{Distribution, mirror};

use crate::{runtime, workspace};

const HOST: &str = "registry.demo";
const IDLE: &str = "while :; do sleep 1; done";
const BUSY: &str = "while :; do :; done";
const HALF: &str = "while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.05; done";
const WRITES: &str = "dd if=/dev/zero of=/data bs=1M count=24; while :; do sleep 1; done";
/// Pods of the live view, with the scripts of their containers.
const PODS: [(&str, &[(&str, &str)]); 4] = [
    ("shop", &[("web", BUSY), ("cache", IDLE)]),
    ("search", &[("index", HALF)]),
    ("mail", &[("smtp", IDLE), ("spool", WRITES)]),
    ("metrics", &[("agent", IDLE)]),
];

/// A terminal that a picture is taken of.
struct Scene {
    name: &'static str,
    columns: u16,
    rows: u16,
    arguments: &'static str,
    /// A key pressed after so long.
    key: Option<(Duration, &'static str)>,
    description: &'static str,
}

const SCENES: [Scene; 3] = [
    Scene {
        name: "pull",
        columns: 100,
        rows: 12,
        arguments: "pull registry.demo/shop:1",
        key: None,
        description: "coracle pull: a bar a layer with its digest, bytes and state, and the digest of the image at the end",
    },
    Scene {
        name: "top",
        columns: 116,
        rows: 16,
        arguments: "top",
        key: Some((Duration::from_secs(14), "q")),
        description: "coracle top: pods with their containers, processor time, memory, disk, network and the time that tasks waited",
    },
    Scene {
        name: "doctor",
        columns: 100,
        rows: 80,
        arguments: "doctor kernel cgroups network",
        key: None,
        description: "coracle doctor: what the kernel, the cgroups and the network of this node have, what it costs and what to do",
    },
];

/// Takes all pictures into `docs/pictures`.
pub(crate) fn run() -> Result<()> {
    let program = match daemon::program() {
        Ok(program) => program,
        Err(_) => crate::build::release()?,
    };
    runtime()?.block_on(take(&program))
}

async fn take(program: &Path) -> Result<()> {
    let directory = workspace().join("docs/pictures");
    std::fs::create_dir_all(&directory)?;
    let node = Node::start()?;
    let registry = Distribution::start(&node).await?;
    mirror(&node, HOST, &registry.authority())?;
    registry.push(&debian::busybox()?, "busybox", "1").await?;
    registry.push(&shop(program)?, "shop", "1").await?;
    let daemon = node.daemon()?;
    let runtime = Runtime::of(&daemon).await?;
    runtime.ready().await?;
    let busybox = format!("{HOST}/busybox:1");
    runtime.pull(&busybox).await?;
    for (name, containers) in PODS {
        let pod = runtime.run_pod(PodSpec::new(name)).await?;
        for (container, script) in containers {
            pod.run(&ContainerSpec::script(container, &busybox, script))
                .await?;
        }
    }
    for scene in SCENES {
        let screen = scene.play(&node, program)?;
        let path = directory.join(format!("{}.svg", scene.name));
        let title = format!("coracle {}", scene.arguments);
        std::fs::write(&path, svg::draw(&screen, &title, scene.description))?;
        println!("{}", path.display());
    }
    explain(&node, program, &directory.join("explain.svg"))
}

/// An image of some layers, large enough for bars.
fn shop(program: &Path) -> Result<coracle_testkit::image::Image> {
    let mut image = ImageBuilder::new();
    for (place, path) in ["/usr/bin/git", "/usr/bin/openssl", "/bin/bash", "/usr/sbin/nginx"]
        .iter()
        .enumerate()
    {
        if Path::new(path).exists() {
            let layer = Layer::new().host_file(Path::new(path), &format!("/bin/{place}"))?;
            image = image.layer(layer.build(), Compression::Gzip);
        }
    }
    let own = Layer::new().host_file(program, "/coracle")?;
    Ok(image.layer(own.build(), Compression::Zstd).build())
}

fn explain(node: &Node, program: &Path, path: &PathBuf) -> Result<()> {
    let output = node
        .command(program)
        .args(["explain", PODS[0].0, "--svg"])
        .output()?;
    ensure!(
        output.status.success(),
        "explain: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(path, output.stdout)?;
    println!("{}", path.display());
    Ok(())
}

impl Scene {
    /// Runs the program on a terminal of this size and gives what is on it at the end.
    fn play(&self, node: &Node, program: &Path) -> Result<vt100::Screen> {
        let line = format!(
            "stty cols {} rows {}; export TERM=xterm-256color; exec {} {}",
            self.columns,
            self.rows,
            program.display(),
            self.arguments
        );
        let mut child = node
            .command("script")
            .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run script, of Debian's bsdutils")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let key = self.key;
        let keyboard = std::thread::spawn(move || {
            if let Some((after, key)) = key {
                std::thread::sleep(after);
                // A program that left by itself takes no key.
                let _ = stdin.write_all(key.as_bytes());
                let _ = stdin.flush();
            }
            std::thread::sleep(Duration::from_millis(500));
            stdin
        });
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes)?;
        drop(keyboard.join());
        child.wait()?;
        let mut terminal = vt100::Parser::new(self.rows, self.columns, 0);
        // What a live view leaves behind is the terminal before it: the picture is of the view.
        let leave = b"\x1b[?25h\x1b[?1049l";
        let end = bytes.windows(leave.len()).position(|window| window == leave);
        terminal.process(&bytes[..end.unwrap_or(bytes.len())]);
        Ok(terminal.screen().clone())
    }
}
