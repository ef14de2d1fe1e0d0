//! The program is replaced under running pods, forth and back: none restarts, no log line is lost. Needs root.
//!
//! `CORACLE_PREVIOUS` names the program of the release before; without it the program under test stands
//! for it, as another file, which is what tells keepers apart.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec, Pod, PodSpec};
use coracle_testkit::node::daemon;
use coracle_testkit::node::{DaemonOptions, Role};
use coracle_testkit::wait;
use coracle_tests::{Bed, Plan, count};

/// Counts as fast as a chatty service logs, so that a gap shows.
const COUNTER: &str = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
/// Lines that a counter writes before what happens counts as happening under load.
const WARM: usize = 20;

/// Where the program is installed, replaced as a package manager does it: another file, by rename.
struct Installed {
    directory: tempfile::TempDir,
    tested: PathBuf,
    previous: PathBuf,
}

impl Installed {
    fn make() -> Result<Self> {
        let tested = daemon::program()?;
        let previous = match std::env::var_os("CORACLE_PREVIOUS") {
            Some(path) => std::fs::canonicalize(&path)
                .with_context(|| format!("CORACLE_PREVIOUS: {}", Path::new(&path).display()))?,
            None => tested.clone(),
        };
        Ok(Self {
            directory: tempfile::tempdir()?,
            tested,
            previous,
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("coracle")
    }

    fn put(&self, from: &Path) -> Result<()> {
        let beside = self.directory.path().join("coracle.new");
        std::fs::copy(from, &beside)?;
        // What lies behind the last section is nobody's: the file is another, the program is not.
        let mut file = std::fs::OpenOptions::new().append(true).open(&beside)?;
        write!(file, "{}", std::process::id())?;
        drop(file);
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755))?;
        Ok(std::fs::rename(beside, self.path())?)
    }

    fn put_previous(&self) -> Result<()> {
        self.put(&self.previous)
    }

    fn put_tested(&self) -> Result<()> {
        self.put(&self.tested)
    }

    async fn bed(&self) -> Result<Bed> {
        Bed::planned(Plan {
            subnet: Some("10.91.0.0/16"),
            daemon: DaemonOptions {
                program: Some(self.path()),
                ..DaemonOptions::default()
            },
        })
        .await
    }
}

/// A pod whose container counts, and what must stay as it is.
struct Counting {
    pod: Pod,
    container: Container,
    began: String,
    started_at: i64,
}

impl Counting {
    async fn start(bed: &Bed, name: &str) -> Result<Self> {
        let pod = bed.runtime.run_pod(PodSpec::new(name)).await?;
        let container = pod
            .run(&ContainerSpec::script(name, &bed.busybox, COUNTER))
            .await?;
        Ok(Self {
            began: began(&container).await?,
            started_at: container.status().await?.started_at,
            pod,
            container,
        })
    }

    async fn several(bed: &Bed, name: &str, count: usize) -> Result<Vec<Self>> {
        let mut pods = Vec::new();
        for number in 0..count {
            pods.push(Self::start(bed, &format!("{name}-{number}")).await?);
        }
        for pod in &pods {
            pod.goes_on_after(WARM).await?;
        }
        Ok(pods)
    }

    fn lines(&self) -> Result<usize> {
        Ok(self.container.log_lines()?.len())
    }

    async fn goes_on_after(&self, lines: usize) -> Result<()> {
        wait::until_async("the counter to count on", Duration::from_secs(20), || async {
            Ok((self.lines()? > lines).then_some(()))
        })
        .await
    }

    /// The very process runs, answers, and is heard.
    async fn check(&mut self, bed: &Bed) -> Result<()> {
        self.pod = self.pod.through(&bed.runtime);
        self.container = self.container.through(&bed.runtime);
        let name = self.pod.config().hostname.clone();
        ensure!(
            self.pod.status().await?.state() == cri::PodSandboxState::SandboxReady,
            "{name} is not ready"
        );
        let status = self.container.status().await?;
        ensure!(
            status.state() == cri::ContainerState::ContainerRunning && status.started_at == self.started_at,
            "{name}: {status:?}"
        );
        let began = began(&self.container).await.with_context(|| name.clone())?;
        ensure!(began == self.began, "{name}: {began} instead of {}", self.began);
        let lines = self.lines()?;
        self.goes_on_after(lines).await.context(name)
    }

    /// Stops it through the daemon of now; its log has every number once, in order.
    async fn end(self) -> Result<()> {
        self.container.stop(Duration::ZERO).await?;
        let name = &self.pod.config().hostname;
        for (number, (stream, tag, text)) in self.container.log_lines()?.into_iter().enumerate() {
            let expected = ("stdout", "F", format!("line {number}"));
            ensure!(
                (stream.as_str(), tag.as_str(), &text) == (expected.0, expected.1, &expected.2),
                "{name}: {stream} {tag} {text:?} instead of {expected:?}"
            );
        }
        ensure!(self.lines()? > WARM, "{name} hardly counted");
        Ok(self.pod.remove().await?)
    }
}

/// When the container's first process began, in ticks after boot: no two have the pid and this in common.
async fn began(container: &Container) -> Result<String> {
    let stat = container
        .exec(&["cut", "-d ", "-f", "22", "/proc/1/stat"])
        .await?;
    ensure!(stat.code == 0, "{stat:?}");
    Ok(stat.stdout.trim().to_owned())
}

async fn check(bed: &Bed, pods: &mut [Counting]) -> Result<()> {
    for pod in pods {
        pod.check(bed).await?;
    }
    Ok(())
}

async fn end(pods: Vec<Counting>) -> Result<()> {
    for pod in pods {
        pod.end().await?;
    }
    Ok(())
}

/// As a service manager does after the files were replaced.
async fn restart(bed: &mut Bed) -> Result<()> {
    bed.daemon.terminate()?;
    bed.daemon.start_again()?;
    bed.reconnect().await
}

/// Living ones: keepers leave a moment after their last pod.
fn keepers(bed: &Bed, expected: usize) -> Result<()> {
    wait::until(&format!("{expected} keepers"), Duration::from_secs(20), || {
        let mut keepers = bed.daemon.processes(Role::Keeper)?;
        keepers.retain(|keeper| keeper.state != 'Z');
        Ok((keepers.len() == expected).then_some(()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_on_through_an_upgrade_and_a_downgrade() -> Result<()> {
    let program = Installed::make()?;
    program.put_previous()?;
    let mut bed = program.bed().await?;
    let mut first = Counting::several(&bed, "old", count(6, 20)).await?;

    program.put_tested()?;
    restart(&mut bed).await?;
    check(&bed, &mut first).await?;
    let mut second = Counting::several(&bed, "new", 2).await?;
    keepers(&bed, 2)?;
    // Another container of an old pod is its old shim's work.
    let old = &first[0].pod;
    let late = old.run(&ContainerSpec::idle("late", &bed.busybox)).await?;
    assert_eq!(late.exec(&["true"]).await?.code, 0);
    first.remove(1).end().await?;

    program.put_previous()?;
    restart(&mut bed).await?;
    check(&bed, &mut first).await?;
    check(&bed, &mut second).await?;
    let third = Counting::several(&bed, "older", 1).await?;
    keepers(&bed, 3)?;

    end(first).await?;
    keepers(&bed, 2)?;
    end(second).await?;
    keepers(&bed, 1)?;
    end(third).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_an_upgrade_costs_nothing() -> Result<()> {
    let program = Installed::make()?;
    program.put_previous()?;
    let mut bed = program.bed().await?;
    let mut pods = Counting::several(&bed, "old", 3).await?;
    // Unpacked, and the old daemon runs on for a while: it still starts pods.
    program.put_tested()?;
    pods.extend(Counting::several(&bed, "between", 1).await?);
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    check(&bed, &mut pods).await?;
    // The old keeper has another shim take over, the old program's.
    for shim in bed.daemon.processes(Role::Shim)? {
        shim.kill()?;
    }
    for pod in &pods {
        wait::until_async("exec to work again", Duration::from_secs(20), || async {
            Ok(pod.container.through(&bed.runtime).exec(&["true"]).await.ok())
        })
        .await?;
    }
    check(&bed, &mut pods).await?;
    keepers(&bed, 2)?;
    end(pods).await?;
    keepers(&bed, 1)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_old_keeper_and_shim_died_is_adopted_by_the_new_program() -> Result<()> {
    let program = Installed::make()?;
    program.put_previous()?;
    let mut bed = program.bed().await?;
    let mut pods = Counting::several(&bed, "old", 2).await?;
    bed.daemon.terminate()?;
    for keeper in bed.daemon.processes(Role::Keeper)? {
        keeper.kill()?;
    }
    program.put_tested()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    // The shims have given the new keeper their pipes by the time the daemon has greeted them.
    check(&bed, &mut pods).await?;
    for shim in bed.daemon.processes(Role::Shim)? {
        shim.kill()?;
    }
    for pod in &pods {
        wait::until_async("exec to work again", Duration::from_secs(20), || async {
            Ok(pod.container.exec(&["true"]).await.ok())
        })
        .await?;
    }
    check(&bed, &mut pods).await?;
    end(pods).await?;
    keepers(&bed, 1)?;
    bed.leave().await
}
