//! The files of `host-local`: `<ip>` holds `<container id>\r\n<interface>`, `last_reserved_ip.<n>` an address.
//!
//! Everything happens under flock(2) of `lock`, the plugin's own lock, so that both may work on
//! one directory. The files outlive a boot and are not synced, as the plugin does not sync them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use coracle_types::PodSandboxId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::PluginError;

/// How long another holder of the lock is waited for. A plugin holds it for a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);

/// No file of the store is larger: an id of 64 digits, two separators, an interface's name.
const LARGEST: u64 = 512;

/// The directory of one network's reservations, locked.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes the directory if need be and waits for its lock.
    pub(crate) fn lock(dir: &Path) -> Result<Self, PluginError> {
        let path = dir.join("lock");
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| PluginError::File {
                operation,
                path,
                source,
            }
        };
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir).map_err(failed("make the directory", dir))?;
                open()
            }
            other => other,
        }
        .map_err(failed("open", &path))?;
        let since = Instant::now();
        let mut pause = Duration::from_micros(100);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Self {
                        dir: dir.into(),
                        _lock: file,
                    });
                }
                Err(Errno::WOULDBLOCK) if since.elapsed() < PATIENCE => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("lock", &path)(errno.into())),
            }
        }
    }

    /// The address that was given last from this range set.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let text = read_small(&self.dir.join(format!("last_reserved_ip.{set}"))).ok()?;
        text.trim().parse().ok()
    }

    /// Reserves an address; false when it is another's.
    pub(crate) fn reserve(
        &self,
        address: IpAddr,
        set: usize,
        pod: &PodSandboxId,
        link: &str,
    ) -> Result<bool, PluginError> {
        let path = self.dir.join(address.to_string());
        let failed = |operation| {
            let path = path.clone();
            move |source| PluginError::File {
                operation,
                path,
                source,
            }
        };
        let mut file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Holders write under the lock that is ours now: an empty file is what a crash
                // left between making and writing it, and nobody's.
                if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() == 0) {
                    OpenOptions::new()
                        .write(true)
                        .open(&path)
                        .map_err(failed("open"))?
                } else {
                    return Ok(false);
                }
            }
            Err(error) => return Err(failed("reserve")(error)),
        };
        if let Err(error) = file.write_all(content(pod, link).as_bytes()) {
            let _ = fs::remove_file(&path);
            return Err(failed("write")(error));
        }
        let last = self.dir.join(format!("last_reserved_ip.{set}"));
        let noted = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&last)
            .and_then(|mut file| file.write_all(address.to_string().as_bytes()));
        if let Err(source) = noted {
            let _ = fs::remove_file(&path);
            return Err(PluginError::File {
                operation: "write",
                path: last,
                source,
            });
        }
        Ok(true)
    }

    /// Whether the address is reserved for the pod.
    pub(crate) fn holds(&self, address: IpAddr, pod: &PodSandboxId, link: &str) -> Result<bool, PluginError> {
        let path = self.dir.join(address.to_string());
        match read_small(&path) {
            Ok(text) => Ok(is_of(&text, pod, link)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(PluginError::File {
                operation: "read",
                path,
                source,
            }),
        }
    }

    /// Frees these addresses as far as they are the pod's.
    pub(crate) fn release(
        &self,
        known: &[IpAddr],
        pod: &PodSandboxId,
        link: &str,
    ) -> Result<(), PluginError> {
        for address in known {
            if self.holds(*address, pod, link)? {
                remove(&self.dir.join(address.to_string()))?;
            }
        }
        Ok(())
    }

    /// Frees every address of the pod.
    pub(crate) fn release_all(&self, pod: &PodSandboxId, link: &str) -> Result<(), PluginError> {
        self.each(|path, text| {
            if is_of(text, pod, link) {
                remove(path)
            } else {
                Ok(())
            }
        })
    }

    /// Frees every address whose holder is not in `valid` (pairs of container id and interface).
    pub(crate) fn retain(&self, valid: &HashSet<(String, String)>) -> Result<(), PluginError> {
        self.each(|path, text| {
            let mut lines = text.trim().splitn(2, "\r\n").map(str::to_owned);
            let holder = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            if valid.contains(&holder) {
                Ok(())
            } else {
                remove(path)
            }
        })
    }

    fn each(&self, mut visit: impl FnMut(&Path, &str) -> Result<(), PluginError>) -> Result<(), PluginError> {
        let failed = |source| PluginError::File {
            operation: "list",
            path: self.dir.clone(),
            source,
        };
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Only files named by an address are reservations.
            if entry
                .file_name()
                .to_str()
                .is_none_or(|name| name.parse::<IpAddr>().is_err())
            {
                continue;
            }
            let path = entry.path();
            match read_small(&path) {
                Ok(text) => visit(&path, &text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(PluginError::File {
                        operation: "read",
                        path,
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

fn content(pod: &PodSandboxId, link: &str) -> String {
    format!("{pod}\r\n{link}")
}

/// Plugins before 0.8 wrote the id alone.
fn is_of(text: &str, pod: &PodSandboxId, link: &str) -> bool {
    let text = text.trim();
    text == content(pod, link) || text == pod.as_str()
}

fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn remove(path: &Path) -> Result<(), PluginError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PluginError::File {
            operation: "free",
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_plugins_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, pod) = (dir.path().join("net"), PodSandboxId::generate());
        let address: IpAddr = "10.0.0.2".parse().unwrap();
        {
            let store = Store::lock(&dir).unwrap();
            assert!(store.reserve(address, 0, &pod, "eth0").unwrap());
            assert!(
                !store
                    .reserve(address, 0, &PodSandboxId::generate(), "eth0")
                    .unwrap()
            );
            assert_eq!(store.last_reserved(0), Some(address));
        }
        assert_eq!(
            fs::read_to_string(dir.join("10.0.0.2")).unwrap(),
            format!("{pod}\r\neth0")
        );
        assert_eq!(
            fs::read_to_string(dir.join("last_reserved_ip.0")).unwrap(),
            "10.0.0.2"
        );
        let store = Store::lock(&dir).unwrap();
        store.release_all(&PodSandboxId::generate(), "eth0").unwrap();
        assert!(store.holds(address, &pod, "eth0").unwrap());
        store.release_all(&pod, "eth0").unwrap();
        assert!(!dir.join("10.0.0.2").exists());
        assert!(dir.join("last_reserved_ip.0").exists(), "not a reservation");
    }

    #[test]
    fn an_empty_file_of_a_crash_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10.0.0.2"), "").unwrap();
        let store = Store::lock(dir.path()).unwrap();
        assert!(
            store
                .reserve("10.0.0.2".parse().unwrap(), 0, &PodSandboxId::generate(), "eth0")
                .unwrap()
        );
    }

    #[test]
    fn a_collection_spares_the_valid_and_what_is_no_reservation() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::lock(dir.path()).unwrap();
        let (keep, drop) = (PodSandboxId::generate(), PodSandboxId::generate());
        store
            .reserve("10.0.0.2".parse().unwrap(), 0, &keep, "eth0")
            .unwrap();
        store
            .reserve("fd00::2".parse().unwrap(), 1, &drop, "eth0")
            .unwrap();
        store
            .retain(&HashSet::from([(keep.to_string(), "eth0".to_owned())]))
            .unwrap();
        assert!(dir.path().join("10.0.0.2").exists());
        assert!(!dir.path().join("fd00::2").exists());
        assert!(dir.path().join("lock").exists());
    }

    #[test]
    fn threads_never_share_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let taken: Vec<IpAddr> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut mine = Vec::new();
                        for last in 1..=60_u8 {
                            let address = IpAddr::from([10, 0, 0, last]);
                            let store = Store::lock(dir.path()).unwrap();
                            if store
                                .reserve(address, 0, &PodSandboxId::generate(), "eth0")
                                .unwrap()
                            {
                                mine.push(address);
                            }
                        }
                        mine
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        });
        assert_eq!(taken.len(), 60);
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 60);
    }
}
