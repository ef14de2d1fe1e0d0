//! `coracle run` on a node without a daemon: an engine of the command's own, and nothing of it afterwards. Needs root.

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_testkit::census::Census;
use coracle_testkit::cni;
use coracle_testkit::image::debian;
use coracle_testkit::node::Node;
use coracle_testkit::node::daemon::program;
use coracle_testkit::registry::{Distribution, mirror};
use coracle_testkit::wait;
use coracle_tests::bed::HOST;
use rustix::process::{Pid, Signal, kill_process};

/// How long a command may take to end on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node where no daemon is, and a registry.
struct Alone {
    node: Node,
    busybox: String,
    before: Census,
    _registry: Distribution,
}

impl Alone {
    async fn make() -> Result<Self> {
        let node = Node::start()?;
        // The node's own is an overlay, on which overlay takes no writable layer.
        node.run("mount", &["-t", "tmpfs", "tmpfs", "/var/lib"])?;
        cni::bridge(&node, "10.90.0.0/16")?;
        let registry = Distribution::start(&node).await?;
        mirror(&node, HOST, &registry.authority())?;
        registry.push(&debian::busybox()?, "busybox", "1").await?;
        let mut alone = Self {
            busybox: format!("{HOST}/busybox:1"),
            before: Census::quiet(&node)?,
            _registry: registry,
            node,
        };
        // What the first one makes for the node stays: the bridge, the firewall's tables.
        let output = finished(alone.run("true")?)?;
        ensure!(output.status.success(), "{output:?}");
        alone.before = Census::quiet(&alone.node)?;
        Ok(alone)
    }

    fn run(&self, script: &str) -> Result<Child> {
        let mut command = self.node.command(program()?);
        command.args(["run", &self.busybox, "--", "sh", "-c", script]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// Names in the places where engines lie.
    fn engines(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for place in ["/var/lib", "/run", "/run/coracle-instances"] {
            let entries = std::fs::read_dir(self.node.path(place)).into_iter().flatten();
            for entry in entries {
                found.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        found.retain(|name| name.starts_with("coracle-run-"));
        Ok(found)
    }

    fn nothing_is_left(&self) -> Result<()> {
        assert_eq!(self.engines()?, Vec::<String>::new());
        let diff = self.before.diff(&Census::settled(&self.node, &self.before)?);
        ensure!(diff.is_empty(), "the census differs:\n{diff}");
        Ok(())
    }
}

/// Waits for the first line of what it runs.
fn up(child: &mut Child) -> Result<()> {
    let mut line = String::new();
    let output = child.stdout.as_mut().context("no standard output")?;
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "up\n", "{line:?}");
    Ok(())
}

/// Sends a signal to the program; nsenter stands before it and passes none on.
fn signal(child: &Child, signal: Signal) -> Result<()> {
    let id = child.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let pid = children
        .split_whitespace()
        .next()
        .context("nsenter has no child")?;
    Ok(kill_process(
        Pid::from_raw(pid.parse()?).context("a pid is not 0")?,
        signal,
    )?)
}

/// Its end, with the little that it says.
fn finished(mut child: Child) -> Result<Output> {
    end(&mut child)?;
    Ok(child.wait_with_output()?)
}

fn end(child: &mut Child) -> Result<Option<i32>> {
    let status = wait::until("the command's end", PATIENCE, || Ok(child.try_wait()?))?;
    Ok(status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_daemon_leaves_nothing_however_it_ends() -> Result<()> {
    let alone = Alone::make().await?;
    let output = finished(alone.run("echo said; exit 3")?)?;
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(3), &b"said\n"[..]),
        "{output:?}"
    );
    alone.nothing_is_left()?;

    let mut interrupted = alone.run("echo up; sleep 1000")?;
    up(&mut interrupted)?;
    assert!(!alone.engines()?.is_empty());
    signal(&interrupted, Signal::INT)?;
    end(&mut interrupted)?;
    alone.nothing_is_left()?;

    // What a killed one has left the next one takes away.
    let mut killed = alone.run("echo up; sleep 1000")?;
    up(&mut killed)?;
    signal(&killed, Signal::KILL)?;
    end(&mut killed)?;
    assert!(!alone.engines()?.is_empty());
    let output = finished(alone.run("true")?)?;
    ensure!(output.status.success(), "{output:?}");
    alone.nothing_is_left()
}
