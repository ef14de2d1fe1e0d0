//! Trees that are hard to remove or to count.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;

fn removed(root: &Path, name: &str) -> Result<(Usage, Usage), WalkError> {
    let parent = fs::File::open(root).expect("made by the test");
    remove(parent.as_fd(), OsStr::new(name))
}

#[test]
fn links_are_removed_and_not_followed() {
    let root = tempfile::tempdir().expect("writable");
    fs::create_dir_all(root.path().join("outside/dir")).expect("writable");
    fs::write(root.path().join("outside/file"), "x").expect("writable");
    fs::create_dir(root.path().join("tree")).expect("writable");
    for (name, target) in [("a", "../outside"), ("b", "../outside/file"), ("c", "/")] {
        std::os::unix::fs::symlink(target, root.path().join("tree").join(name)).expect("writable");
    }
    removed(root.path(), "tree").expect("removable");
    assert!(!root.path().join("tree").exists());
    assert!(root.path().join("outside/file").exists() && root.path().join("outside/dir").exists());
    removed(root.path(), "tree").expect("what is gone is no error");
}

#[test]
fn closed_directories_and_odd_names_go_too() {
    let root = tempfile::tempdir().expect("writable");
    let tree = root.path().join("tree");
    fs::create_dir_all(tree.join("closed/below")).expect("writable");
    fs::write(tree.join("closed/below/file"), "x").expect("writable");
    fs::write(tree.join(OsStr::from_bytes(b"\xff\n")), "x").expect("writable");
    for path in ["closed/below", "closed"] {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o000)).expect("ours");
    }
    removed(root.path(), "tree").expect("removable");
    assert!(!tree.exists());
}

/// Deeper than a recursion's stack and than the limit on open files.
fn make_deep(root: &Path, depth: usize) {
    let flags = OPEN;
    let mut at: OwnedFd = fs::File::open(root).expect("made by the test").into();
    for level in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("writable");
        let below = openat(&at, "d", flags, Mode::empty()).expect("just made");
        if level % 1000 == 0 {
            openat(&below, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("writable");
        }
        at = below;
    }
}

#[test]
fn deep_trees_are_counted_and_removed() {
    let root = crate::testing::fast_directory();
    make_deep(root.path(), 20_000);
    let parent = fs::File::open(root.path()).expect("made");
    let counted = usage(parent.as_fd(), OsStr::new("d")).expect("countable");
    assert_eq!(counted.inodes, 20_020);
    let (freed, directories) = removed(root.path(), "d").expect("removable");
    assert_eq!((freed.inodes, directories.inodes), (20_020, 20_000));
    assert!(!root.path().join("d").exists());
}

#[test]
fn usage_is_blocks_and_counts_a_file_once() {
    let root = tempfile::tempdir().expect("writable");
    let tree = root.path().join("tree");
    fs::create_dir(&tree).expect("writable");
    fs::write(tree.join("a"), vec![1; 100_000]).expect("writable");
    fs::hard_link(tree.join("a"), tree.join("b")).expect("writable");
    fs::File::create(tree.join("hole"))
        .and_then(|file| file.set_len(1 << 30))
        .expect("writable");
    let parent = fs::File::open(root.path()).expect("made");
    let counted = usage(parent.as_fd(), OsStr::new("tree")).expect("countable");
    let blocks: u64 = ["", "a", "hole"]
        .iter()
        .map(|name| fs::metadata(tree.join(name)).expect("made").blocks() * 512)
        .sum();
    assert_eq!(
        counted,
        Usage {
            bytes: blocks,
            inodes: 3
        }
    );
    assert!(counted.bytes < 1 << 20);
}

#[test]
fn immutable_files_are_removed_by_root() {
    let root = tempfile::tempdir().expect("writable");
    fs::create_dir_all(root.path().join("tree/dir")).expect("writable");
    fs::write(root.path().join("tree/dir/file"), "x").expect("writable");
    for (path, flag) in [("tree/dir/file", IFlags::IMMUTABLE), ("tree/dir", IFlags::APPEND)] {
        let file = fs::File::open(root.path().join(path)).expect("made");
        if ioctl_setflags(&file, flag).is_err() {
            // The file system has no such flags.
            return;
        }
    }
    removed(root.path(), "tree").expect("removable");
    assert!(!root.path().join("tree").exists());
}

#[test]
fn as_root_a_mount_is_neither_entered_nor_removed() {
    let root = tempfile::tempdir().expect("writable");
    let inside = root.path().join("tree/a/mount");
    fs::create_dir_all(&inside).expect("writable");
    rustix::mount::mount(
        "coracle-test",
        &inside,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )
    .expect("root may mount");
    fs::write(inside.join("precious"), "x").expect("writable");
    let error = removed(root.path(), "tree").expect_err("a mount is in the way");
    assert_eq!((error.name.to_str(), error.errno), (Some("mount"), Errno::XDEV));
    assert_eq!(fs::read(inside.join("precious")).expect("untouched"), b"x");
    rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::empty()).expect("ours");
    removed(root.path(), "tree").expect("removable now");
}
