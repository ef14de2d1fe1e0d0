//! What CreateContainer looks at on the node, so that StartContainer finds nothing wrong with the request.

use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::Path;

use coracle_store::regular::{self, Access};
use coracle_types::Kind;
use coracle_types::resources::LinuxResources;

use crate::error::EngineError;

const OPERATION: &str = "create container";
/// Which processors and memory nodes the kernel can use now.
const ONLINE: [(&str, &str); 2] = [
    ("cpuset_cpus", "/sys/devices/system/cpu/online"),
    ("cpuset_mems", "/sys/devices/system/node/online"),
];

/// Whether the processors and memory nodes that are asked for are there.
pub(super) fn check_sets(resources: &LinuxResources) -> Result<(), EngineError> {
    for ((field, file), asked) in ONLINE
        .into_iter()
        .zip([&resources.cpuset_cpus, &resources.cpuset_mems])
    {
        if asked.is_empty() {
            continue;
        }
        let invalid = |problem: String| {
            let message = format!("linux.resources.{field} {asked:?}: {problem}");
            EngineError::new(Kind::InvalidArgument, OPERATION, message)
        };
        let wanted = ranges(asked)
            .ok_or_else(|| invalid("give a list such as 0-3,7, each range from low to high".to_owned()))?;
        // Where the kernel does not say, it is left to refuse.
        let Some(online) = fs::read_to_string(file).ok() else {
            continue;
        };
        let online = online.trim();
        let Some(there) = ranges(online) else { continue };
        let has = |number: u32| there.iter().any(|range| range.contains(&number));
        if let Some(missing) = wanted.into_iter().flatten().find(|number| !has(*number)) {
            return Err(invalid(format!("{missing} is not there: this node has {online}")));
        }
    }
    Ok(())
}

/// `0-3,7` as ranges of at most 8192 numbers each, what the kernel is built for at most.
fn ranges(text: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.parse().ok()?, high.parse().ok()?);
        (low <= high && high < 8192).then_some(low..=high)
    };
    text.split(',').map(range).collect()
}

/// Whether the log can be written: its directory is made, and the file if it is not there.
pub(super) fn check_log(path: &Path) -> Result<(), EngineError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| refused("log_directory", parent, &error))?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => {
            let message = format!(
                "log_path {}: there is something that is no file: remove it, or give another log_path",
                path.display()
            );
            Err(EngineError::new(Kind::InvalidArgument, OPERATION, message))
        }
        // Another thing may have come there since.
        _ => regular::open(path, Access::Append)
            .map(drop)
            .map_err(|error| refused("log_path", path, &error)),
    }
}

fn refused(field: &str, path: &Path, error: &std::io::Error) -> EngineError {
    let (kind, remedy) = match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => (
            Kind::InvalidArgument,
            "a part of the path is no directory: give another one",
        ),
        ErrorKind::InvalidFilename | ErrorKind::InvalidInput => (
            Kind::InvalidArgument,
            "give a shorter name: 255 bytes a part at most",
        ),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => (
            Kind::FailedPrecondition,
            "make the directory writable for this runtime, or give another one",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Kind::ResourceExhausted, "free space on its file system")
        }
        _ => (Kind::Internal, "see to its file system"),
    };
    let message = format!("{field} {}: {error}: {remedy}", path.display());
    EngineError::new(kind, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_lists_of_what_is_there() {
        assert_eq!(ranges("0-3,7"), Some(vec![0..=3, 7..=7]));
        for bad in ["", "3-1", "a", "1,,2", "-1", "1-", "99999"] {
            assert_eq!(ranges(bad), None, "{bad:?}");
        }
        let with = |cpus: &str| LinuxResources {
            cpuset_cpus: cpus.to_owned(),
            ..LinuxResources::default()
        };
        assert!(check_sets(&with("0")).is_ok());
        let error = check_sets(&with("0,8191")).expect_err("no machine of ours");
        assert!(error.to_string().contains("8191 is not there"), "{error}");
    }

    #[test]
    fn a_log_that_cannot_be_is_refused_in_words() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(check_log(&directory.path().join("a/b.log")).is_ok());
        assert!(check_log(&directory.path().join("a")).is_err());
        let below_a_file = check_log(&directory.path().join("a/b.log/c.log")).expect_err("no directory");
        assert!(
            below_a_file.to_string().contains("log_directory"),
            "{below_a_file}"
        );
        assert!(check_log(&directory.path().join("x".repeat(300))).is_err());
    }
}
