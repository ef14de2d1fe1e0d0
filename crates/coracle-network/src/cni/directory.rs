//! The directory of configurations: the first valid file in lexical order is the network, and
//! changes are followed, also when the directory itself comes only later.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};

use super::configuration::{NetworkConf, PluginConf, add_directory};
use super::exec::printable;
use crate::plugins::Stock;

/// No configuration is larger, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Writers make several changes in a row; one look after them is enough.
const QUIET: Duration = Duration::from_millis(20);

/// A network and which of its plugins run in process.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) conf: NetworkConf,
    pub(crate) stocks: Vec<Option<Stock>>,
}

impl Network {
    /// Decides for each plugin whether it runs in process; a wrong option of one is an error.
    pub(crate) fn new(conf: NetworkConf) -> Result<Self, String> {
        let stock = |plugin: &PluginConf| {
            Stock::of(&plugin.kind, &plugin.config, &conf.name)
                .map_err(|error| format!("plugin {:?}: {error}", plugin.kind))
        };
        let stocks = conf.plugins.iter().map(stock).collect::<Result<Vec<_>, _>>()?;
        if conf.plugins.is_empty() {
            return Err("`plugins` is empty".into());
        }
        Ok(Self { conf, stocks })
    }
}

/// What the directory held when it was last read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) network: Option<Network>,
    /// What is wrong with files before the one that was taken.
    pub(crate) problems: Vec<String>,
}

/// Reads the directory; a missing one is empty.
pub(crate) fn load(dir: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    let mut files: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return loaded,
        Err(error) => {
            loaded.problems.push(format!("{}: {error}", dir.display()));
            return loaded;
        }
    };
    files.retain(|path| {
        matches!(
            path.extension().and_then(OsStr::to_str),
            Some("conf" | "conflist" | "json")
        )
    });
    files.sort();
    for file in files {
        match read_network(&file, dir) {
            Ok(network) => {
                loaded.network = Some(network);
                break;
            }
            Err(problem) => {
                let name = file.file_name().unwrap_or_default().display();
                loaded.problems.push(printable(&format!("{name}: {problem}")));
            }
        }
    }
    loaded
}

fn read_network(file: &Path, dir: &Path) -> Result<Network, String> {
    let text = read_bounded(file).map_err(|error| error.to_string())?;
    let mut conf = NetworkConf::read(&text)?;
    add_directory(&mut conf, dir)?;
    Network::new(conf)
}

/// Reads a regular file of bearable size.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    // A FIFO must not hold us up.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("larger than {LARGEST} bytes")));
    }
    Ok(text)
}

/// Calls `changed` now and after every change, for ever. When inotify fails it says so and ends.
pub(crate) async fn follow(dir: PathBuf, changed: impl Fn() + Send + Sync + 'static) {
    if let Err(error) = watch(&dir, changed).await {
        tracing::error!(%error, dir = %dir.display(), "changes of the CNI configuration are no longer followed");
    }
}

async fn watch(dir: &Path, changed: impl Fn()) -> io::Result<()> {
    let inotify = Inotify::init()?;
    let mut watches = inotify.watches();
    let mut events = inotify.into_event_stream(vec![0_u8; 4096])?;
    let mut above = None;
    loop {
        // Armed before the look, so that what changes during it is seen by the next one.
        let (watch, is_dir) = arm(&mut watches, dir)?;
        if let Some(old) = above.take_if(|old| *old != watch) {
            // Gone already when the directory it watched is.
            let _ = watches.remove(old);
        }
        if !is_dir {
            above = Some(watch);
        }
        changed();
        if events.next().await.transpose()?.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Ok(Some(event)) = tokio::time::timeout(QUIET, events.next()).await {
            event?;
        }
    }
}

/// Watches the directory or, while it is missing, the nearest one above it that is there; says
/// whether it was the directory.
fn arm(watches: &mut Watches, dir: &Path) -> io::Result<(WatchDescriptor, bool)> {
    let inside = WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    let above = WatchMask::CREATE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    for place in dir.ancestors() {
        let mask = if place == dir { inside } else { above };
        match watches.add(place, mask) {
            // It may have come between the failed watch below it and this one.
            Ok(watch) if place != dir && below_exists(place, dir) => {
                let _ = watches.remove(watch);
                return arm(watches, dir);
            }
            Ok(watch) => return Ok((watch, place == dir)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Whether the next directory from `place` towards `dir` is there.
fn below_exists(place: &Path, dir: &Path) -> bool {
    dir.ancestors()
        .find(|path| path.parent() == Some(place))
        .is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const VALID: &str = r#"{"cniVersion":"1.0.0","name":"NAME","plugins":[{"type":"ptp"}]}"#;

    fn name_in(dir: &Path) -> Option<String> {
        load(dir).network.map(|network| network.conf.name)
    }

    #[test]
    fn the_first_valid_file_is_taken_and_the_others_problems_kept() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        assert_eq!(name_in(&dir.path().join("missing")), None);
        write("10-broken.conflist", "{");
        write("15-not-for-us.txt", &VALID.replace("NAME", "txt"));
        write("20-b.conflist", &VALID.replace("NAME", "b"));
        write("30-c.conf", &VALID.replace("NAME", "c"));
        let loaded = load(dir.path());
        assert_eq!(loaded.network.unwrap().conf.name, "b");
        assert!(
            loaded.problems[0].starts_with("10-broken.conflist: not JSON"),
            "{:?}",
            loaded.problems
        );
        write("05-a.json", &VALID.replace("NAME", "a"));
        assert_eq!(name_in(dir.path()).as_deref(), Some("a"));
    }

    #[test]
    fn hostile_files_hold_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("0.conf");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("1.conf")).unwrap();
        fs::create_dir(dir.path().join("2.conf")).unwrap();
        File::create(dir.path().join("3.conf"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::write(dir.path().join("4.conf"), "[".repeat(100_000)).unwrap();
        let loaded = load(dir.path());
        assert!(loaded.network.is_none());
        assert_eq!(loaded.problems.len(), 5);
    }

    #[test]
    fn plugins_in_a_directory_join_unless_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("n")).unwrap();
        fs::write(dir.path().join("n/10.conf"), r#"{"type":"tuning"}"#).unwrap();
        let count = |flag: &str| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{flag},"plugins":[{{"type":"ptp"}}]}}"#);
            fs::write(dir.path().join("1.conflist"), text).unwrap();
            load(dir.path()).network.unwrap().conf.plugins.len()
        };
        assert_eq!(count(""), 2);
        assert_eq!(count(r#","loadOnlyInlinedPlugins":true"#), 1);
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/cni/net.d");
        let (seen, names) = mpsc::channel();
        let followed = dir.clone();
        let task = tokio::spawn(follow(dir.clone(), move || {
            seen.send(name_in(&followed)).unwrap()
        }));
        let wait_for = async |wanted: Option<&str>| loop {
            match names.try_recv() {
                Ok(name) if name.as_deref() == wanted => return,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        wait_for(None).await;
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("1.conflist"), VALID.replace("NAME", "a")).unwrap();
        wait_for(Some("a")).await;
        fs::write(dir.join("0.conflist"), VALID.replace("NAME", "b")).unwrap();
        wait_for(Some("b")).await;
        fs::remove_dir_all(root.path().join("etc")).unwrap();
        wait_for(None).await;
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("1.conflist"), VALID.replace("NAME", "c")).unwrap();
        wait_for(Some("c")).await;
        task.abort();
    }
}
