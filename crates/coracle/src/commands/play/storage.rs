//! The directory of a pod that was made from a manifest: volumes, hosts file, last words.
//!
//! Layout: `/var/lib/coracle/manifests/<uid>/` with `lock` (held by the command that watches the pod),
//! `socket` (of the runtime that runs it), `hosts`, `volumes/<name>`, `parts/<container>-<n>` (binds of
//! sub paths), `words/<container>-<attempt>`, `stopping` (the pod is being stopped by command). Beside them
//! `watch-<pid>` is what a process says that watches detached pods. A pod's directory goes with its pod: at
//! its end, by `coracle rm`, or, when the command was killed and the pod removed otherwise, at the next run.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_manifest::{Facts, FileContent, HostPathKind, Pod, VolumeFile, VolumeSource};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Where the directories lie.
const BASE: &str = "/var/lib/coracle/manifests";
/// The beginning of the names of what watching processes say.
const WATCH_LOG: &str = "watch-";
/// Bytes that are read of a container's last words, as the kubelet does.
const WORDS_MAX: u64 = 4096;

/// A pod's directory, held by this process.
#[derive(Debug)]
pub(super) struct Storage {
    path: PathBuf,
    /// Locked while the pod is watched.
    _lock: File,
}

impl Storage {
    /// Makes the directory of a pod.
    pub(super) fn make(uid: &str, socket: &Path) -> anyhow::Result<Self> {
        let path = Path::new(BASE).join(uid);
        let make = || {
            for below in ["", "volumes", "parts", "words"] {
                std::fs::create_dir_all(path.join(below))?;
            }
            std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            let lock = File::create(path.join("lock"))?;
            lock.lock()?;
            std::fs::write(path.join("socket"), socket.as_os_str().as_encoded_bytes())?;
            Ok(lock)
        };
        let lock = make().map_err(|error: std::io::Error| {
            let about = format!("make {}: volumes need a place, and root", path.display());
            anyhow::Error::new(error).context(about)
        })?;
        Ok(Self { path, _lock: lock })
    }

    /// Where a volume of the pod's own lies.
    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.path.join("volumes").join(name)
    }

    /// Makes all volumes.
    pub(super) fn make_volumes(&self, pod: &Pod, facts: &Facts) -> anyhow::Result<()> {
        for volume in &pod.volumes {
            self.make_volume(pod, &volume.name, &volume.source, facts)
                .with_context(|| format!("volume {}", volume.name))?;
        }
        Ok(())
    }

    fn make_volume(&self, pod: &Pod, name: &str, source: &VolumeSource, facts: &Facts) -> anyhow::Result<()> {
        let path = self.volume(name);
        match source {
            VolumeSource::EmptyDir { memory, size_limit } => {
                std::fs::create_dir(&path)?;
                if *memory {
                    let size = size_limit.map(|size| format!(",size={size}")).unwrap_or_default();
                    mount_memory(&path, &format!("mode=0777{size}"))?;
                }
                std::fs::set_permissions(&path, Permissions::from_mode(0o777))?;
                share(&path, pod.security.fs_group, 0o2770)
            }
            VolumeSource::Files(files) => {
                std::fs::create_dir(&path)?;
                if files.iter().any(is_secret) {
                    mount_memory(&path, "mode=0755")?;
                }
                for file in files {
                    let content = pod.file_content(&file.content, facts);
                    write(&path, file, &content, pod.security.fs_group).with_context(|| file.path.clone())?;
                }
                Ok(())
            }
            VolumeSource::HostPath { path, kind } => host_path(Path::new(path), *kind),
            VolumeSource::Image { .. } => Ok(()),
        }
    }

    /// Writes the pod's hosts file; gives its path.
    pub(super) fn hosts(&self, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join("hosts");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// An empty file for a container's last words.
    pub(super) fn words_file(&self, container: &str, attempt: u32) -> anyhow::Result<PathBuf> {
        let path = self.path.join("words").join(format!("{container}-{attempt}"));
        File::create(&path).with_context(|| format!("make {}", path.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        Ok(path)
    }

    /// Binds a part of a volume to a path that nothing inside the pod can change.
    pub(super) fn part(&self, volume: &Path, part: &str, label: &str) -> anyhow::Result<PathBuf> {
        let target = self.path.join("parts").join(label);
        if !target.exists() {
            super::sub_path::bind(volume, part, &target)
                .with_context(|| format!("sub path {part:?} of {}", volume.display()))?;
        }
        Ok(target)
    }

    /// Whether somebody is stopping the pod by command.
    pub(super) fn is_stopping(&self) -> bool {
        self.path.join("stopping").exists() || !self.path.exists()
    }

    /// Takes all of it away.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        remove_directory(&self.path)
    }
}

/// What a container left in its file of last words: the end of it, however long the container made it.
pub(super) fn last_words(path: &Path) -> String {
    end_of(path).trim().to_owned()
}

/// The end of a file that a container filled; nothing when it cannot be read.
pub(super) fn end_of(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WORDS_MAX)))?;
        let mut bytes = Vec::new();
        file.take(WORDS_MAX).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Keeps whoever watches a pod of a manifest from starting its containers again; nothing for other pods.
pub(crate) fn mark_stopping(uid: &str) {
    let path = directory(uid).filter(|path| path.join("lock").exists());
    if let Some(path) = path {
        // Without the mark the watcher sees a moment later that the sandbox is stopped.
        let _ = std::fs::write(path.join("stopping"), "");
    }
}

/// The directory of a pod, if its uid is a name.
fn directory(uid: &str) -> Option<PathBuf> {
    let is_name = !uid.is_empty() && !uid.starts_with('.') && !uid.contains('/');
    is_name.then(|| Path::new(BASE).join(uid))
}

/// A file for what a process says that watches pods in the background.
pub(super) fn watch_log() -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(BASE).with_context(|| format!("make {BASE}: it needs root"))?;
    std::fs::set_permissions(BASE, Permissions::from_mode(0o700))?;
    let path = Path::new(BASE).join(format!("{WATCH_LOG}{}", std::process::id()));
    File::create(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

/// Holds the log of a watching process, lest it be swept away.
pub(super) fn hold_watch_log(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Removes what a pod of a manifest had beside its sandbox; nothing when it had nothing.
pub(crate) fn remove_of(uid: &str) -> anyhow::Result<()> {
    match directory(uid).filter(|path| path.join("lock").exists()) {
        Some(path) => remove_directory(&path),
        None => Ok(()),
    }
}

/// Removes directories whose pod is gone and which nobody watches.
pub(super) fn sweep(socket: &Path, uids: &[String]) {
    for entry in std::fs::read_dir(BASE).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(WATCH_LOG.as_bytes())
        {
            let unwatched = File::open(&path).is_ok_and(|log| log.try_lock().is_ok());
            if unwatched && is_old(&path) {
                let _ = std::fs::remove_file(&path);
            }
            continue;
        }
        let of_socket = std::fs::read(path.join("socket"))
            .is_ok_and(|bytes| bytes == socket.as_os_str().as_encoded_bytes());
        let name = entry.file_name();
        let has_pod = uids.iter().any(|uid| name.as_os_str() == uid.as_str());
        let unwatched = File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if of_socket && unwatched && !has_pod {
            let _ = remove_directory(&path);
        }
    }
}

/// Older than a minute: not just being made.
fn is_old(path: &Path) -> bool {
    let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age.as_secs() > 60))
}

/// Unmounts what is mounted below, then removes; never the other way round, for a bind leads to files
/// that are not ours.
pub(crate) fn remove_directory(path: &Path) -> anyhow::Result<()> {
    for mounted in mounts_below(path)? {
        unmount(&mounted, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .with_context(|| format!("unmount {}", mounted.display()))?;
    }
    if let Some(left) = mounts_below(path)?.first() {
        bail!(
            "{} is still mounted: unmount it, then remove {}",
            left.display(),
            path.display()
        );
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Mount points below a directory, the latest first.
fn mounts_below(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(path))
        .collect();
    below.reverse();
    Ok(below)
}

fn mount_memory(path: &Path, options: &str) -> anyhow::Result<()> {
    let options = std::ffi::CString::new(options).context("options of a tmpfs")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str()))
        .with_context(|| format!("mount a tmpfs at {}", path.display()))
}

fn is_secret(file: &VolumeFile) -> bool {
    matches!(&file.content, FileContent::Text(text) if text.is_secret())
}

/// Gives a directory or file to the volumes' group, if there is one.
fn share(path: &Path, group: Option<i64>, bits: u32) -> anyhow::Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else {
        return Ok(());
    };
    chown(path, None, Some(group)).with_context(|| format!("give {} to group {group}", path.display()))?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    std::fs::set_permissions(path, Permissions::from_mode(mode | bits))?;
    Ok(())
}

fn write(volume: &Path, file: &VolumeFile, content: &[u8], group: Option<i64>) -> anyhow::Result<()> {
    let path = volume.join(&file.path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut open = File::create_new(&path)?;
    open.write_all(content)?;
    open.set_permissions(Permissions::from_mode(file.mode))?;
    share(&path, group, 0o440)
}

/// What a hostPath's type asks for, as the kubelet sees to it.
fn host_path(path: &Path, kind: HostPathKind) -> anyhow::Result<()> {
    let found = match std::fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    let fits = |wanted: &str, fits: fn(&std::fs::FileType) -> bool| match &found {
        Some(kind) if fits(kind) => Ok(()),
        Some(_) => bail!("{} is there, but is no {wanted}", path.display()),
        None => bail!(
            "there is no {wanted} {}: make it, or give another type",
            path.display()
        ),
    };
    match (kind, &found) {
        (HostPathKind::Unchecked, _) => Ok(()),
        (HostPathKind::DirectoryOrCreate, None) => {
            std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
            Ok(std::fs::set_permissions(path, Permissions::from_mode(0o755))?)
        }
        (HostPathKind::FileOrCreate, None) => {
            File::create_new(path).with_context(|| format!("make {}", path.display()))?;
            Ok(std::fs::set_permissions(path, Permissions::from_mode(0o644))?)
        }
        (HostPathKind::DirectoryOrCreate | HostPathKind::Directory, _) => {
            fits("directory", std::fs::FileType::is_dir)
        }
        (HostPathKind::FileOrCreate | HostPathKind::File, _) => fits("file", std::fs::FileType::is_file),
        (HostPathKind::Socket, _) => fits("socket", FileTypeExt::is_socket),
        (HostPathKind::CharDevice, _) => fits("character device", FileTypeExt::is_char_device),
        (HostPathKind::BlockDevice, _) => fits("block device", FileTypeExt::is_block_device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_last_words_is_read_however_long_they_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A terabyte that takes no space: who read it whole would not come back.
        file.as_file().set_len(1 << 40).unwrap();
        file.as_file().seek(SeekFrom::End(0)).unwrap();
        file.as_file().write_all(b" the end").unwrap();
        let words = last_words(file.path());
        assert!(words.len() <= 4096 && words.ends_with("the end"));
    }
}
