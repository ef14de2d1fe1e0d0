//! An engine of our own, for `coracle run` without a daemon: it and all it made end with the command.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use coracle_proto::client::Client;

use super::play::storage::remove_directory;
use super::{find, remove};
use crate::config::{Loaded, Sources};
use crate::serve::Daemon;
use crate::terminal::remark;

/// Where an engine's directories lie: what outlives a boot, what does not.
const BASES: [&str; 2] = ["/var/lib", "/run"];
/// The beginning of its name; the process follows.
const PREFIX: &str = "coracle-run-";
/// The pods' cgroup in that of its name.
const PODS: &str = "pods";
/// How often a directory is removed into which a pull that was given up may still write.
const REMOVALS: usize = 10;
/// Between two removals.
const PAUSE: Duration = Duration::from_millis(50);

/// A daemon in this process, on directories of its own.
pub(crate) struct Foreground {
    daemon: Daemon,
    client: Client,
    name: String,
    directories: [PathBuf; 2],
}

impl Foreground {
    /// Starts it under a name that no other daemon has, after taking away what killed commands have left.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        sweep().await;
        let name = format!("{PREFIX}{}", std::process::id());
        let directories = directories(&name);
        match Self::open(&name).await {
            Ok(foreground) => Ok(foreground),
            Err(error) => {
                // Nothing has run in them; who may not make them has none.
                report(remove_directories(&directories).await);
                Err(error)
            }
        }
    }

    async fn open(name: &str) -> anyhow::Result<Self> {
        // Of the node's configuration it takes registries and networks, but nobody's names.
        let directories = directories(name);
        let at = |directory: &Path| directory.display().to_string();
        let sources = Sources::of_node()
            .with("instance", name)
            .with("root", &at(&directories[0]))
            .with("state", &at(&directories[1]))
            .with("socket", &at(&directories[1].join("coracle.sock")))
            .with("cgroup.driver", "cgroupfs")
            .with("cgroup.default_parent", &format!("/{name}/{PODS}"))
            .with("cgroup.runtime", &format!("/{name}.slice"))
            .with("metrics.address", "");
        let config = Loaded::read(&sources)?.config;
        let daemon = Daemon::start(&config, None).await?;
        match Client::connect(daemon.socket()).await {
            Ok(client) => Ok(Self {
                daemon,
                client,
                name: name.to_owned(),
                directories,
            }),
            Err(error) => {
                report(daemon.remove().await);
                Err(error.into())
            }
        }
    }

    /// The way to it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Ends it and removes all that carries its name.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        drop(self.client);
        // Its directories say what the kernel still has of it: without them nobody could take that away.
        self.daemon.remove().await.with_context(|| {
            let root = self.directories[0].display();
            format!("{root} stays: the next `coracle run` without a daemon takes away what is left")
        })?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        let cgroups = remove_cgroups(hierarchies(&mounts), &self.name);
        first(cgroups, remove_directories(&self.directories).await)
    }

    /// Removes the pods with what the command that made them kept beside them.
    async fn remove_pods(&self) -> anyhow::Result<()> {
        for pod in find::pods(&self.client).await? {
            remove::remove_pod(&self.client, &pod).await?;
        }
        Ok(())
    }
}

/// Where hierarchies of cgroups are mounted.
fn hierarchies(mounts: &str) -> impl Iterator<Item = &Path> {
    mounts.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        file_system.starts_with("cgroup").then_some(Path::new(point))
    })
}

/// Removes the pods' parents: elsewhere they are the kubelet's, and the engine leaves them alone.
fn remove_cgroups<'a>(hierarchies: impl Iterator<Item = &'a Path>, name: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies {
        let parent = hierarchy.join(name);
        for cgroup in [parent.join(PODS), parent] {
            match std::fs::remove_dir(&cgroup) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove the cgroup {}", cgroup.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// How a command ends that had to clean up: as what it ran ended. Only what went well gives way to a clean-up
/// that failed.
pub(super) fn conclude(
    outcome: anyhow::Result<ExitCode>,
    cleaned: anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    match (outcome, cleaned) {
        (Ok(code), Err(error)) if code == ExitCode::SUCCESS => Err(error),
        (outcome, cleaned) => {
            report(cleaned);
            outcome
        }
    }
}

/// The first failure; a second one is said.
pub(super) fn first(outcome: anyhow::Result<()>, next: anyhow::Result<()>) -> anyhow::Result<()> {
    if outcome.is_ok() {
        return next;
    }
    report(next);
    outcome
}

/// Says of a failure that is not the one to end with.
pub(super) fn report(outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        remark(format!("{error:#}"));
    }
}

fn directories(name: &str) -> [PathBuf; 2] {
    BASES.map(|base| Path::new(base).join(name))
}

async fn remove_directories(directories: &[PathBuf]) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    for directory in directories {
        let mut removed = remove_directory(directory);
        for _ in 1..REMOVALS {
            if removed.is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            removed = remove_directory(directory);
        }
        outcome = first(outcome, removed);
    }
    outcome
}

/// Takes away what killed commands have left, as each would have done itself. The engine's locks keep two from
/// doing so at once, and one from doing so to a command that lives in another PID namespace.
async fn sweep() {
    if !Path::new("/proc/self").exists() {
        // Without it nobody would seem to live.
        return;
    }
    let lives = |pid: u32| Path::new("/proc").join(pid.to_string()).exists();
    for name in left(&BASES.map(Path::new), lives) {
        let swept = async {
            let engine = Foreground::open(&name).await?;
            let removed = engine.remove_pods().await;
            first(engine.end().await, removed)
        };
        report(swept.await.with_context(|| {
            format!("what {name} has left stays: see `coracle doctor`, then remove its directories in /var/lib and /run")
        }));
    }
}

/// Names of engines whose process lives no more.
fn left(bases: &[&Path], lives: impl Fn(u32) -> bool) -> BTreeSet<String> {
    let entries = bases
        .iter()
        .filter_map(|base| std::fs::read_dir(base).ok())
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let digits = name.strip_prefix(PREFIX).unwrap_or_default();
            let pid = digits.parse::<u32>().ok();
            pid.is_some_and(|pid| pid.to_string() == digits && !lives(pid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_engines_whose_process_is_gone_are_swept() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in [
            "coracle",
            "coracle-run-",
            "coracle-run-12",
            "coracle-run-13",
            "coracle-run-014",
            "coracle-run-+15",
            "coracle-run-16x",
            "other-run-17",
        ] {
            std::fs::create_dir(one.path().join(name)).unwrap();
        }
        std::fs::create_dir(other.path().join("coracle-run-12")).unwrap();
        std::fs::create_dir(other.path().join("coracle-run-18")).unwrap();
        std::fs::write(other.path().join("coracle-run-19"), "").unwrap();
        std::os::unix::fs::symlink(one.path(), other.path().join("coracle-run-20")).unwrap();
        let found = left(&[one.path(), other.path(), Path::new("/none")], |pid| pid == 13);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["coracle-run-12", "coracle-run-18"]
        );
    }

    #[test]
    fn the_pods_parents_go_from_every_hierarchy() {
        let text = "30 29 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n\
                    32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    33 29 0:29 / /home/cgroup rw - ext4 /dev/vda rw\n";
        let found: Vec<_> = hierarchies(text).collect();
        assert_eq!(
            found,
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu"].map(Path::new)
        );
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(one.path().join("coracle-run-7/pods")).unwrap();
        std::fs::create_dir_all(one.path().join("coracle-run-8/pods")).unwrap();
        let both = || [one.path(), other.path()].into_iter();
        remove_cgroups(both(), "coracle-run-7").unwrap();
        assert!(!one.path().join("coracle-run-7").exists());
        std::fs::create_dir(one.path().join("coracle-run-8/pods/busy")).unwrap();
        assert!(remove_cgroups(both(), "coracle-run-8").is_err());
    }

    #[test]
    fn a_clean_up_that_fails_hides_neither_error_nor_exit_code() {
        let failed = |words: &'static str| Err(anyhow::anyhow!(words));
        let code = |code: u8| Ok(ExitCode::from(code));
        let words = |outcome: anyhow::Result<ExitCode>| outcome.unwrap_err().to_string();
        assert_eq!(conclude(code(3), failed("clean-up")).unwrap(), ExitCode::from(3));
        assert_eq!(
            words(conclude(Err(anyhow::anyhow!("it")), failed("clean-up"))),
            "it"
        );
        assert_eq!(words(conclude(code(0), failed("clean-up"))), "clean-up");
        assert_eq!(conclude(code(0), Ok(())).unwrap(), ExitCode::SUCCESS);
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("a/b");
        std::fs::create_dir_all(&inside).unwrap();
        let both = [directory.path().join("a"), directory.path().join("none")];
        remove_directories(&both).await.unwrap();
        assert!(!inside.exists());
    }
}
