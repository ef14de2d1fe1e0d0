//! Host paths of volumes before they are mounted: made where missing, and able to propagate.

use std::io;
use std::path::{Path, PathBuf};

use coracle_types::container::{ContainerConfig, MountPropagation};

use crate::error::SpecError;

/// Makes each missing host path of a volume as a directory (mode 0755; a `hostPath` without a type
/// may be missing, and containerd and CRI-O make it), and refuses propagation that the mount it lies
/// on cannot give. Blocking.
///
/// # Errors
/// [`SpecError::HostPath`] when a path cannot be made or resolved; [`SpecError::Unsupported`] when a
/// volume is to be shared (or slave) and its mount on the node is not.
pub fn ensure_mount_sources(container: &ContainerConfig) -> Result<(), SpecError> {
    let mut mountinfo: Option<String> = None;
    for (index, mount) in container.mounts.iter().enumerate() {
        if mount.image.is_some() {
            continue;
        }
        let path = Path::new(&mount.host_path);
        let resolved = resolve(path).map_err(|source| unusable(index, path, source))?;
        if mount.propagation == MountPropagation::Private {
            continue;
        }
        if mountinfo.is_none() {
            let file = Path::new("/proc/self/mountinfo");
            let text = std::fs::read_to_string(file).map_err(|source| failed("reading", file, source))?;
            mountinfo = Some(text);
        }
        let tags = propagation_tags(mountinfo.as_deref().unwrap_or_default(), &resolved);
        let enough = match mount.propagation {
            MountPropagation::Bidirectional => tags.contains("shared:"),
            _ => tags.contains("shared:") || tags.contains("master:"),
        };
        if !enough {
            let (asked, wanted) = match mount.propagation {
                MountPropagation::Bidirectional => ("PROPAGATION_BIDIRECTIONAL", "shared"),
                _ => ("PROPAGATION_HOST_TO_CONTAINER", "shared or slave"),
            };
            return Err(SpecError::unsupported(
                "mounts.propagation",
                format!("{asked} of {}", mount.host_path),
                format!("it lies on a mount that is not {wanted}; run `mount --make-rshared` on that mount"),
            ));
        }
    }
    Ok(())
}

fn resolve(path: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            make(path)?;
            std::fs::canonicalize(path)
        }
        resolved => resolved,
    }
}

/// In the words of whoever wrote the request: the field, the path and what to do on the node.
fn unusable(index: usize, path: &Path, source: io::Error) -> SpecError {
    let remedy = match source.kind() {
        _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            "its links lead in a circle: name another path"
        }
        io::ErrorKind::NotADirectory => "a part of the path is a file: name another path",
        io::ErrorKind::AlreadyExists => {
            "it is a link to nothing: make what it leads to, or name another path"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make it before: this runtime cannot"
        }
        _ => return failed("making or resolving the volume", path, source),
    };
    SpecError::unsupported(
        format!("mounts[{index}].host_path"),
        path.to_string_lossy(),
        format!("{source}; {remedy}"),
    )
}

fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> SpecError {
    SpecError::HostPath {
        operation,
        path: PathBuf::from(path),
        source,
    }
}

/// The optional fields (`shared:N master:N`) of the mount that `path` lies on: the longest mount
/// point above it, the last one of those (proc_pid_mountinfo(5)).
fn propagation_tags(mountinfo: &str, path: &Path) -> String {
    let mut best: (usize, String) = (0, String::new());
    for line in mountinfo.lines() {
        let Some((left, _)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = left.split(' ').collect();
        let Some(point) = fields.get(4).map(|point| unescaped(point)) else {
            continue;
        };
        if path.starts_with(&point) && point.len() >= best.0 {
            best = (point.len(), fields.get(6..).unwrap_or_default().join(" "));
        }
    }
    best.1
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(point: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(point.to_owned(), |text, (code, character)| {
            text.replace(code, character)
        })
}

#[cfg(test)]
mod tests {
    use coracle_types::container::Mount;

    use super::*;

    const INFO: &str = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        2 1 8:2 / /data rw master:4 - ext4 /dev/sdb rw\n\
        3 1 8:3 / /data/my\\040vol rw - ext4 /dev/sdc rw\n";

    #[test]
    fn the_deepest_mount_counts() {
        assert_eq!(propagation_tags(INFO, Path::new("/database")), "shared:1");
        assert_eq!(propagation_tags(INFO, Path::new("/data/x")), "master:4");
        assert_eq!(propagation_tags(INFO, Path::new("/data/my vol/x")), "");
    }

    #[test]
    fn a_missing_directory_is_made_and_a_file_in_the_way_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let wanted = directory.path().join("a/b");
        let mut container = ContainerConfig {
            mounts: vec![Mount {
                host_path: wanted.display().to_string(),
                ..Default::default()
            }],
            ..Default::default()
        };
        ensure_mount_sources(&container).expect("can be made");
        assert!(wanted.is_dir());
        std::fs::write(directory.path().join("file"), "").expect("written");
        container.mounts[0].host_path = directory.path().join("file/below").display().to_string();
        let error = ensure_mount_sources(&container).expect_err("a file is no directory");
        assert!(error.to_string().contains("file/below"), "{error}");
    }
}
