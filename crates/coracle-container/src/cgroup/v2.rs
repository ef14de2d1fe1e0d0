//! Limits in the files of cgroup version 2, converted from the version 1 numbers that OCI speaks in.

mod convert;

use std::io::ErrorKind;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::files::{exists, read, write};
use super::hierarchy::Hierarchy;
use crate::error::Error;
use convert::{Missing, Present, Setting};

/// Controllers that children need for the limits known here.
const WANTED: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];

/// Lets children of `parent` (below `root`) have controllers of their own.
///
/// What is refused (EBUSY: the cgroup has processes) is found when a limit is written.
pub(super) fn delegate(hierarchy: &Hierarchy, root: &Path, parent: &Path) -> Result<(), Error> {
    let wanted: Vec<&str> = WANTED
        .into_iter()
        .filter(|controller| hierarchy.controls(controller))
        .collect();
    enable(&wanted, root, parent)
}

/// Top-down: a cgroup can pass on only what it was given.
fn enable(wanted: &[&str], root: &Path, parent: &Path) -> Result<(), Error> {
    if lacking(wanted, parent)?.is_empty() {
        return Ok(());
    }
    for directory in chain(root, parent) {
        for controller in lacking(wanted, &directory)? {
            let _ = write(&directory, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
    Ok(())
}

fn lacking<'a>(wanted: &[&'a str], directory: &Path) -> Result<Vec<&'a str>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let have = read(directory, "cgroup.subtree_control")?;
    let have: Vec<&str> = have.split_ascii_whitespace().collect();
    Ok(wanted
        .iter()
        .copied()
        .filter(|controller| !have.contains(controller))
        .collect())
}

/// `root` and every directory between it and `parent`, that one included.
fn chain(root: &Path, parent: &Path) -> Vec<std::path::PathBuf> {
    let mut directories = vec![root.to_path_buf()];
    for part in parent.strip_prefix(root).unwrap_or(Path::new("")).components() {
        let next = directories[directories.len() - 1].join(part);
        directories.push(next);
    }
    directories
}

/// Applies what the controllers of this hierarchy limit.
pub(super) fn apply(
    hierarchy: &Hierarchy,
    directory: &Path,
    resources: &LinuxResources,
) -> Result<(), Error> {
    convert::check_before_update(directory, resources)?;
    let offers = |controller: &str| hierarchy.controls(controller);
    for setting in convert::settings(resources, &offers, &Files(directory))? {
        set(hierarchy, directory, &setting)?;
    }
    Ok(())
}

/// What stands in the files now: an update may name a part of what one file holds.
struct Files<'a>(&'a Path);

impl Present for Files<'_> {
    fn read(&self, file: &str) -> Option<String> {
        read(self.0, file).ok()
    }

    fn has(&self, file: &str) -> bool {
        exists(self.0, file)
    }
}

fn set(hierarchy: &Hierarchy, directory: &Path, setting: &Setting) -> Result<(), Error> {
    let Setting { file, value, missing } = setting;
    let written = write(directory, file, value);
    let Err(Error::Cgroup { source, path, .. }) = &written else {
        return written;
    };
    let errno = source.raw_os_error().map(Errno::from_raw_os_error);
    let because = match errno {
        Some(Errno::NOENT) if *missing == Missing::Harmless => return Ok(()),
        Some(Errno::NOENT) => {
            let controller = file.split('.').next().unwrap_or(file);
            // A controller that is not among those enabled for every container may be there to be enabled.
            if hierarchy.controls(controller)
                && let Some(parent) = directory.parent()
                && !exists(directory, file)
            {
                enable(&[controller], &hierarchy.mount, parent)?;
                if exists(directory, file) {
                    return write(directory, file, value);
                }
            }
            why_missing(hierarchy, directory, controller)
        }
        Some(Errno::NODEV) if file.starts_with("io.") => {
            "no such block device on this node: give major:minor of a whole disk as lsblk lists it".into()
        }
        _ => return written,
    };
    Err(Error::Cgroup {
        operation: format!("write {value:?}: {because}"),
        path: path.clone(),
        source: if errno == Some(Errno::NODEV) {
            ErrorKind::InvalidInput.into()
        } else {
            ErrorKind::Unsupported.into()
        },
    })
}

/// In words, and with the cgroup that is in the way.
fn why_missing(hierarchy: &Hierarchy, directory: &Path, controller: &str) -> String {
    if !hierarchy.controls(controller) {
        return format!(
            "this node has no {controller} controller; leave the limit out, or boot a kernel with it"
        );
    }
    let Some(parent) = directory.parent() else {
        return "the root has no limits".into();
    };
    let busy = chain(&hierarchy.mount, parent)
        .into_iter()
        .find(|directory| lacking(&[controller], directory).is_ok_and(|lacking| !lacking.is_empty()));
    match busy {
        Some(busy)
            if busy != hierarchy.mount
                && read(&busy, "cgroup.procs").is_ok_and(|procs| !procs.is_empty()) =>
        {
            format!(
                "{} has processes of its own, so that its children can have no {controller} controller (EBUSY): \
                 move them into a cgroup below it",
                busy.display()
            )
        }
        Some(busy) => format!(
            "the {controller} controller is not enabled in {}/cgroup.subtree_control",
            busy.display()
        ),
        None => format!("this kernel's {controller} controller has no such file"),
    }
}
