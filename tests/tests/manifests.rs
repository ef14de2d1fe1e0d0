//! `coracle run` with Kubernetes manifests: the files in `tests/manifests`, each to its end. Needs root.
//!
//! What each says and how it ends is a snapshot; docs/manifests.md shows the same as a table.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_proto::cri;
use coracle_testkit::image::critest;
use coracle_testkit::node::daemon::program;
use coracle_testkit::wait;
use coracle_tests::Bed;
use coracle_tests::checks::holds;
use rustix::process::{Pid, Signal, kill_process};

/// How long a pod may take on a slow machine before a test gives it up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the command keeps what pods of manifests have.
const STATE: &str = "/var/lib/coracle/manifests";

fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(name)
}

async fn bed() -> Result<Bed> {
    let bed = Bed::make().await?;
    bed.push(&critest::nginx(80)?, "nginx", "1").await?;
    Ok(bed)
}

/// Nothing of a pod's directory is left, and the bed is as it was.
async fn leave(bed: Bed) -> Result<()> {
    let left: Vec<_> = std::fs::read_dir(bed.node().path(STATE))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(left.is_empty(), "left in {STATE}: {left:?}");
    bed.leave().await
}

/// A command line in the background, and what it has said so far.
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(bed: &Bed, arguments: &[&str]) -> Result<Self> {
        let mut child = bed
            .node()
            .command(program()?)
            .arg("run")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let readers = vec![gather(stdout, &said), gather(stderr, &said)];
        Ok(Self { child, said, readers })
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn says(&self, words: &str) -> Result<()> {
        wait::until_async(&format!("{words:?} of the command"), PATIENCE, || async {
            Ok(self.said().contains(words).then_some(()))
        })
        .await
        .with_context(|| self.said())
    }

    /// Sends a signal to the program; nsenter stands before it and passes none on.
    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let pid = children
            .split_whitespace()
            .next()
            .context("nsenter has no child")?;
        let pid = Pid::from_raw(pid.parse()?).context("a pid is not 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Interrupts it and waits for its end; gives its exit code and all that it said.
    fn interrupt(self) -> Result<(Option<i32>, String)> {
        self.signal(Signal::INT)?;
        self.end()
    }

    /// Waits for its end; one that does not come is an error with all that it said.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let ended = wait::until("the command's end", PATIENCE, || Ok(self.child.try_wait()?));
        if ended.is_err() {
            // Without it nsenter goes too, and the readers come to their end.
            let _ = self.signal(Signal::KILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let status = ended.with_context(|| self.said())?;
        Ok((status.code(), self.said()))
    }
}

fn gather(from: impl Read + Send + 'static, to: &Arc<Mutex<String>>) -> std::thread::JoinHandle<()> {
    let to = Arc::clone(to);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut said = to.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&line);
            said.push('\n');
        }
    })
}

/// Runs a manifest to its end; gives what happened in a form that is the same each time.
fn outcome(bed: &Bed, name: &str, options: &[&str]) -> Result<String> {
    let path = manifest(name);
    let program = program()?;
    let output = bed
        .node()
        .command(program)
        .arg("run")
        .arg(&path)
        .args(options)
        .stdin(Stdio::null())
        .output()?;
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(&path.display().to_string(), name);
        text.lines()
            .filter(|line| lasting(line))
            .map(|line| without_address(line) + "\n")
            .collect::<String>()
    };
    let options: String = options.iter().map(|option| format!(" {option}")).collect();
    Ok(format!(
        "$ coracle run {name}{options}\n{}--- on standard error\n{}--- exit code {}\n",
        text(&output.stdout),
        text(&output.stderr),
        output.status.code().unwrap_or(-1)
    ))
}

/// Addresses are given in turn.
fn without_address(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        if word.starts_with("10.90.") {
            "ADDRESS"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether a line is the same each time: pulls happen once a node, and a short pod may never be seen ready.
fn lasting(line: &str) -> bool {
    !line.contains("is not on this node: pulling it") && !line.contains(": ready (")
}

/// The page at an address, as soon as somebody answers there.
fn page(bed: &Bed, address: &str) -> Result<String> {
    wait::until("an answer", PATIENCE, || {
        let Ok(mut stream) = bed.node().connect(address.parse()?) else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(Some(answer))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_end_by_themselves() -> Result<()> {
    let bed = bed().await?;
    for name in [
        "dependent-envars",
        "dapi-envars",
        "configmap-and-secret",
        "security-context",
        "hostaliases-and-dns",
        "pod-with-node-affinity",
        "sub-path",
        "job-sidecar",
        "grpc-liveness",
    ] {
        let said = outcome(&bed, &format!("{name}.yaml"), &[])?;
        insta::assert_snapshot!(name, said);
    }
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_refused_and_what_is_named() -> Result<()> {
    let bed = bed().await?;
    for (name, options) in [
        ("pv-pod", vec![]),
        ("misspelt", vec![]),
        ("pod-with-node-affinity", vec!["--strict"]),
        ("nginx-deployment", vec!["--check"]),
        ("simple-pod", vec!["--env", "A=b"]),
    ] {
        let said = outcome(&bed, &format!("{name}.yaml"), &options)?;
        let label = format!("refused_{name}");
        insta::assert_snapshot!(label, said);
    }
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_served_until_the_command_is_interrupted() -> Result<()> {
    let bed = bed().await?;
    for (name, content) in [
        ("simple-pod.yaml", "Welcome to nginx"),
        ("init-containers.yaml", "written beforehand"),
        ("two-container-pod.yaml", "from the second container"),
    ] {
        let running = Running::start(&bed, &[&manifest(name).display().to_string()])?;
        running.says("ready (").await?;
        // Of two containers that are ready, one writes what the other serves.
        let mut answer = String::new();
        let served = wait::until(content, Duration::from_secs(10), || {
            answer = page(&bed, "127.0.0.1:18080")?;
            Ok(answer.contains(content).then_some(()))
        });
        served.with_context(|| format!("{name}: {answer}\n{}", running.said()))?;
        let (code, said) = running.interrupt()?;
        assert_eq!(code, Some(130), "{name}: {said}");
        holds(&said, &["stopping; once more stops at once", "server: stopped"]);
        assert!(bed.runtime.list_pods().await?.is_empty(), "{name}");
    }
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_alive_is_started_again_and_one_that_is_stays() -> Result<()> {
    let bed = bed().await?;
    let running = Running::start(&bed, &[&manifest("exec-liveness.yaml").display().to_string()])?;
    running.says("second life").await?;
    let (_, said) = running.interrupt()?;
    holds(
        &said,
        &[
            "main | first life",
            "main: is not alive, so it is stopped: liveness probe: cat /tmp/healthy exited with 1",
            "main: starts again",
            "main | second life",
        ],
    );
    for name in ["http-liveness.yaml", "tcp-liveness-readiness.yaml"] {
        let running = Running::start(&bed, &[&manifest(name).display().to_string()])?;
        running.says("ready (").await?;
        let container = bed.runtime.list_containers().await?.remove(0);
        // Some probes later it is still the same one.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let still = bed.runtime.list_containers().await?;
        assert_eq!(still.len(), 1, "{name}: {}", running.said());
        assert_eq!(still[0].id, container.id, "{name}: {}", running.said());
        let (_, said) = running.interrupt()?;
        assert!(!said.contains("starts again"), "{name}: {said}");
    }
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_and_last_words_are_told() -> Result<()> {
    let bed = bed().await?;
    let running = Running::start(&bed, &[&manifest("lifecycle-events.yaml").display().to_string()])?;
    running.says("ready (").await?;
    let (_, said) = running.interrupt()?;
    holds(
        &said,
        &[
            "main | said after the start",
            "main | said before the end",
            "main: stopped: a last word",
        ],
    );
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_shared_and_limits_are_the_kubelets() -> Result<()> {
    let bed = bed().await?;
    let running = Running::start(
        &bed,
        &[&manifest("share-process-namespace.yaml").display().to_string()],
    )?;
    let (code, said) = running.end()?;
    assert_eq!(code, Some(0), "{said}");
    holds(&said, &["shell | found it", "server | its process was ended"]);

    let running = Running::start(
        &bed,
        &[&manifest("memory-request-limit.yaml").display().to_string()],
    )?;
    running.says("ready (").await?;
    let id = bed.runtime.list_containers().await?.remove(0).id;
    let request = cri::ContainerStatusRequest {
        container_id: id,
        verbose: false,
    };
    let status = bed
        .runtime
        .runtime()
        .container_status(request)
        .await?
        .into_inner()
        .status;
    let resources = status
        .and_then(|status| status.resources?.linux)
        .context("no resources")?;
    assert_eq!(
        (
            resources.cpu_shares,
            resources.cpu_quota,
            resources.cpu_period,
            resources.memory_limit_in_bytes
        ),
        (256, 50_000, 100_000, 200 << 20)
    );
    assert!((3..1000).contains(&resources.oom_score_adj), "{resources:?}");
    // Twice interrupted, it does not wait for the shell, which heeds no TERM.
    running.signal(Signal::INT)?;
    running.says("once more stops at once").await?;
    // Two signals at once are one wish.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (code, said) = running.interrupt()?;
    assert_eq!(code, Some(130), "{said}");
    holds(&said, &["pod: stops at once"]);
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_pod_is_watched_and_goes_with_rm() -> Result<()> {
    let bed = bed().await?;
    let program = program()?;
    let program = program.to_str().context("the program's path is no text")?;
    let path = manifest("exec-liveness.yaml").display().to_string();
    let id = bed.node().run(program, &["run", "--detach", &path])?;
    let pods = bed.runtime.list_pods().await?;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].id, id.trim());
    let attempt = || async {
        let containers = bed.runtime.list_containers().await?;
        Ok(containers
            .first()
            .and_then(|one| one.metadata.clone())
            .filter(|one| one.attempt > 0))
    };
    wait::until_async("the pod to be probed and started again", PATIENCE, attempt).await?;
    let output = bed.node().output(program, &["run", &path])?;
    assert!(!output.status.success());
    holds(
        &String::from_utf8_lossy(&output.stderr),
        &["alive-by-command is there already", "--replace"],
    );
    bed.node().run(program, &["rm", "alive-by-command"])?;
    wait::until_async("the watching process to leave", PATIENCE, || async {
        let left = std::fs::read_dir(bed.node().path(STATE)).map_or(0, Iterator::count);
        Ok((left == 0).then_some(()))
    })
    .await?;
    leave(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_command_leaves_runs_on_and_goes_with_rm() -> Result<()> {
    let bed = bed().await?;
    let program = program()?;
    let program = program.to_str().context("the program's path is no text")?;
    let running = Running::start(
        &bed,
        &[&manifest("security-context.yaml").display().to_string(), "--keep"],
    )?;
    let (_, said) = running.end()?;
    holds(&said, &["is kept", "coracle rm pod/"]);
    let mounts = || std::fs::read_to_string(format!("/proc/{}/mountinfo", bed.node().init()));
    holds(&mounts()?, &["/volumes/shared"]);
    bed.node().run(program, &["rm", "guarded"])?;
    assert!(!mounts()?.contains(STATE));

    let running = Running::start(&bed, &[&manifest("simple-pod.yaml").display().to_string()])?;
    running.says("ready (").await?;
    running.signal(Signal::KILL)?;
    let _ = running.end()?;
    holds(&page(&bed, "127.0.0.1:18080")?, &["Welcome to nginx"]);
    bed.node().run(program, &["rm", "page"])?;
    leave(bed).await
}

const PROBED: &str = "apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, 'trap \"echo saved; exit 0\" TERM; echo up; while :; do sleep 0.1; done']
    livenessProbe: {exec: {command: ['true']}, periodSeconds: 1, failureThreshold: 1}
  - name: again
    image: IMAGE
    command: [sh, -c, 'echo life; sleep 1; exit 1']
";

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_in_the_foreground_outlives_the_daemon() -> Result<()> {
    let mut bed = bed().await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("probed.yaml");
    std::fs::write(&path, PROBED.replace("IMAGE", &bed.busybox))?;
    let pod = Running::start(&bed, &[&path.display().to_string()])?;
    let script = "trap 'echo rescued; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let image = Running::start(&bed, &["--name", "fg", &bed.busybox, "--", "sh", "-c", script])?;
    pod.says("main | up").await?;
    pod.says("again: starts again in 10 s").await?;
    image.says("up").await?;

    bed.daemon.kill9()?;
    pod.says("waits for the runtime").await?;
    image.says("waits for the runtime").await?;
    // As long as the container that starts again would have waited.
    tokio::time::sleep(Duration::from_secs(11)).await;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let lives = |said: &str| said.matches("again | life").count();
    wait::until("another life", PATIENCE, || {
        Ok((lives(&pod.said()) >= 3).then_some(()))
    })
    .with_context(|| pod.said())?;

    let (code, said) = pod.interrupt()?;
    assert_eq!(code, Some(130), "{said}");
    holds(&said, &["main | saved", "main: stopped"]);
    assert!(!said.contains("is not alive"), "{said}");
    // Its terminal goes.
    image.signal(Signal::HUP)?;
    let (code, said) = image.end()?;
    assert_eq!(code, Some(129), "{said}");
    holds(&said, &["rescued"]);
    assert!(bed.runtime.list_pods().await?.is_empty());
    leave(bed).await
}

const SLOW: &str = "apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, 'trap \"sleep 12; touch /kept/clean; exit 0\" TERM; echo up; while :; do sleep 0.1; done']
    lifecycle: {preStop: {exec: {command: ['true']}}}
    volumeMounts: [{name: kept, mountPath: /kept}]
  volumes: [{name: kept, hostPath: {path: /run/kept, type: DirectoryOrCreate}}]
";

#[tokio::test(flavor = "multi_thread")]
async fn stop_gives_the_manifests_grace_and_names_the_hooks_it_passes_over() -> Result<()> {
    let bed = bed().await?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("slow.yaml");
    std::fs::write(&path, SLOW.replace("IMAGE", &bed.busybox))?;
    let program = program()?;
    let program = program.to_str().context("the program's path is no text")?;
    bed.node()
        .run(program, &["run", "--detach", &path.display().to_string()])?;
    let stopped = bed.node().output(program, &["stop", "slow"])?;
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert!(stopped.status.success(), "{said}");
    // Longer than a stop gives that is told nothing.
    bed.node().run("rm", &["-r", "/run/kept/clean", "/run/kept"])?;
    holds(
        &said,
        &["grace period is 60 s", "without the preStop hooks of main"],
    );
    // Whoever watched it takes it away.
    wait::until_async("the pod to go", PATIENCE, || async {
        Ok(bed.runtime.list_pods().await?.is_empty().then_some(()))
    })
    .await?;
    leave(bed).await
}
