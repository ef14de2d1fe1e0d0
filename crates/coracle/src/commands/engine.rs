//! An engine of our own, for `coracle run` without a daemon: it and all it made end with the command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use coracle_proto::client::Client;

use super::play::storage::remove_directory;
use crate::config::{Loaded, Sources};
use crate::serve::Daemon;
use crate::terminal::remark;

/// Where an engine's directories lie: what outlives a boot, what does not.
const BASES: [&str; 2] = ["/var/lib", "/run"];
/// The beginning of its name; the process follows.
const PREFIX: &str = "coracle-run-";
/// How often a directory is removed into which a pull that was given up may still write.
const REMOVALS: usize = 10;
/// Between two removals.
const PAUSE: Duration = Duration::from_millis(50);

/// A daemon in this process, on directories of its own.
pub(crate) struct Foreground {
    daemon: Daemon,
    client: Client,
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
            .with("cgroup.default_parent", &format!("/{name}/pods"))
            .with("cgroup.runtime", &format!("/{name}.slice"))
            .with("metrics.address", "");
        let config = Loaded::read(&sources)?.config;
        let daemon = Daemon::start(&config, None).await?;
        match Client::connect(daemon.socket()).await {
            Ok(client) => Ok(Self {
                daemon,
                client,
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
        remove_directories(&self.directories).await
    }
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
        if outcome.is_ok() {
            outcome = removed;
        } else {
            report(removed);
        }
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
        let swept = async { Foreground::open(&name).await?.end().await };
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
