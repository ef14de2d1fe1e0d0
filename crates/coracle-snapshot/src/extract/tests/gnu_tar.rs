//! The same tree as GNU tar makes of the same archive.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::io::Errno;

use super::{image_of, unpack};
use crate::limits::Limits;
use crate::testing::{Item, Tree, archive, fast_directory, read_tree};

/// Unpacks with GNU tar as an image's layer is meant to be.
fn gnu_tar(bytes: &[u8], root: &Path) {
    let file = tempfile::NamedTempFile::new().expect("writable");
    fs::write(file.path(), bytes).expect("writable");
    let output = Command::new("tar")
        .args([
            "--extract",
            "--preserve-permissions",
            "--same-owner",
            "--numeric-owner",
        ])
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--delay-directory-restore",
            "--file",
        ])
        .arg(file.path())
        .arg("--directory")
        .arg(root)
        .output()
        .expect("GNU tar is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Compares, but for the times of directories that no entry describes: those are the moment's.
fn assert_same(ours: Tree, theirs: Tree, implied: &BTreeSet<PathBuf>) {
    let clean = |mut tree: Tree| {
        for (path, node) in &mut tree {
            if implied.contains(path) {
                node.mtime = (0, 0);
            }
        }
        tree
    };
    let (ours, theirs) = (clean(ours), clean(theirs));
    for path in ours.keys().chain(theirs.keys()) {
        assert_eq!(ours.get(path), theirs.get(path), "{}", path.display());
    }
}

fn compare(bytes: &[u8]) {
    let (ours, theirs) = (fast_directory(), fast_directory());
    let mode = |path: &Path| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    };
    mode(ours.path());
    mode(theirs.path());
    let contents = unpack(ours.path(), bytes).expect("a legal archive");
    gnu_tar(bytes, theirs.path());
    let implied = contents
        .implied
        .iter()
        .map(|path| {
            if path.is_root() {
                PathBuf::new()
            } else {
                PathBuf::from(path.as_os_str())
            }
        })
        .collect();
    let theirs = read_tree(theirs.path());
    assert_same(read_tree(ours.path()), theirs.clone(), &implied);
    let (_, image) = image_of(bytes, &Limits::default()).expect("a legal archive");
    check_by_erofs_utils(image.path());
    if let Some(mounted) = mounted(image.as_file()) {
        assert_same(mounted, theirs, &implied);
    }
}

/// What erofs-utils finds wrong with an image fails the test.
fn check_by_erofs_utils(image: &Path) {
    let output = Command::new("fsck.erofs")
        .arg("--extract")
        .arg(image)
        .output()
        .expect("erofs-utils is installed");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The tree of an image as the kernel shows it; none before Linux 6.12.
fn mounted(image: &fs::File) -> Option<Tree> {
    match crate::erofs::detached(image.as_fd()) {
        Ok(mount) => Some(read_tree(Path::new(&format!(
            "/proc/self/fd/{}",
            mount.as_raw_fd()
        )))),
        Err((Errno::NOTBLK | Errno::NODEV, _)) => None,
        Err((errno, step)) => panic!("{step}: {errno}"),
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "c", "dir"]).prop_map(|name| name.as_bytes().to_vec()),
        1 => Just(b"sp ace\nline".to_vec()),
        1 => Just(b"\xff\xfe-not-utf8".to_vec()),
        1 => Just([&b"long-"[..], &[b'x'; 120]].concat()),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join(&b'/'))
}

fn item() -> impl Strategy<Value = Item> {
    let kind = prop_oneof![
        6 => Just(b'0'), 5 => Just(b'5'), 2 => Just(b'2'), 2 => Just(b'1'), 1 => Just(b'6'), 1 => Just(b'3')
    ];
    let mode = prop::sample::select(&[0o644, 0o755, 0o600, 0o000, 0o4755, 0o2755, 0o1777, 0o6711, 0o777]);
    let mtime = (
        prop::sample::select(&[0_i64, 1, 1_234_567_890, 4_000_000_000]),
        0_u32..1_000_000_000,
    );
    let owner = prop::sample::select(&[(0, 0), (1000, 1000), (65534, 0), (4_000_000_000_u32, 7)]);
    let data = prop::collection::vec(any::<u8>(), 0..2000);
    (path(), kind, mode, mtime, owner, data, path(), any::<bool>()).prop_map(
        |(path, flag, mode, mtime, owner, data, link, attributes)| {
            let mut item = Item {
                mode,
                mtime,
                ..Item::new(flag, path)
            };
            // ustar's fields hold ids up to 2097151.
            for (key, id) in [("uid", owner.0), ("gid", owner.1)] {
                item = item.pax(key, id.to_string());
            }
            match flag {
                b'0' => item.data = data,
                b'1' | b'2' => item.link = link,
                b'3' => item.device = (1, 3),
                _ => {}
            }
            if attributes && matches!(flag, b'0' | b'5') {
                item = item.pax("SCHILY.xattr.user.note", b"a\n=\0b");
            }
            if attributes && flag == b'0' {
                let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
                item = item.pax("SCHILY.xattr.security.capability", capability);
            }
            item
        },
    )
}

/// Leaves out what no sequence of files could mean: entries below a file or a link, hard links to nothing;
/// and what GNU tar does not do: files in the place of full directories, second descriptions of a directory
/// (the first one's attributes stay).
fn sanitized(items: Vec<Item>) -> Vec<Item> {
    let mut files: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut directories: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut kept = Vec::new();
    for mut item in items {
        let parents: Vec<Vec<u8>> = (0..item.path.len())
            .filter(|at| item.path[*at] == b'/')
            .map(|at| item.path[..at].to_vec())
            .collect();
        if parents.iter().any(|parent| files.contains(parent)) {
            continue;
        }
        if item.flag == b'1' {
            let own = [&item.path[..], b"/"].concat();
            let target = files
                .iter()
                .find(|file| **file != item.path && !file.starts_with(&own));
            match target {
                Some(target) => item.link.clone_from(target),
                None => continue,
            }
        }
        let below = [&item.path[..], b"/"].concat();
        let full = files
            .iter()
            .chain(&directories)
            .any(|known| known.starts_with(&below));
        if item.flag != b'5' && full {
            continue;
        }
        if item.flag == b'5' && !directories.insert(item.path.clone()) {
            continue;
        }
        if item.flag == b'5' {
            files.remove(&item.path);
        } else {
            directories.remove(&item.path);
            files.insert(item.path.clone());
        }
        kept.push(item);
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_root_the_tree_is_that_of_gnu_tar(items in prop::collection::vec(item(), 1..24)) {
        compare(&archive(&sanitized(items)));
    }
}

/// Lets GNU tar write an archive of a real tree in one of its formats.
fn written_by_gnu_tar(arguments: &[&str], fill: impl Fn(&Path)) -> Vec<u8> {
    let source = fast_directory();
    fill(source.path());
    let output = Command::new("tar")
        .args(["--create", "--file=-"])
        .args(arguments)
        .arg("--directory")
        .arg(source.path())
        .arg(".")
        .output()
        .expect("GNU tar is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn fill_with_sparse(root: &Path) {
    use std::os::unix::fs::FileExt;
    for (name, pieces) in [("few", 3_u64), ("many", 60), ("hole", 0)] {
        let file = fs::File::create(root.join(name)).expect("writable");
        for piece in 0..pieces {
            file.write_all_at(format!("piece {piece}").as_bytes(), piece * 300_000)
                .expect("writable");
        }
        file.set_len(pieces * 300_000 + 1_000_000).expect("writable");
    }
}

#[test]
fn as_root_sparse_files_of_all_formats_are_whole_and_sparse() {
    use std::os::unix::fs::MetadataExt;
    for format in [
        &["--format=gnu", "--sparse"][..],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let bytes = written_by_gnu_tar(format, fill_with_sparse);
        compare(&bytes);
        let root = fast_directory();
        unpack(root.path(), &bytes).expect("legal");
        let many = fs::metadata(root.path().join("many")).expect("unpacked");
        assert!(
            many.blocks() * 512 < many.len() / 4,
            "{format:?}: the holes are holes"
        );
    }
}

#[test]
fn as_root_long_names_and_old_formats_are_read() {
    let fill = |root: &Path| {
        let deep = root
            .join("d".repeat(90))
            .join("e".repeat(90))
            .join("f".repeat(90));
        fs::create_dir_all(&deep).expect("writable");
        fs::write(deep.join("file"), "x").expect("writable");
        std::os::unix::fs::symlink("t".repeat(300), root.join("link")).expect("writable");
        fs::hard_link(deep.join("file"), root.join("again")).expect("writable");
    };
    for format in ["--format=gnu", "--format=posix", "--format=oldgnu"] {
        compare(&written_by_gnu_tar(&[format], fill));
    }
    let short = |root: &Path| {
        fs::create_dir(root.join("d")).expect("writable");
        fs::write(root.join("d/f"), "x").expect("writable");
    };
    for format in ["--format=v7", "--format=ustar"] {
        compare(&written_by_gnu_tar(&[format], short));
    }
}

#[test]
fn as_root_later_entries_win_and_change_types() {
    compare(&archive(&sanitized(vec![
        Item::directory("a", 0o700),
        Item::file("a/x", "1"),
        Item::file("a/x", "2"),
        Item::symlink("a/y", "x"),
        Item::file("a/y", "file now"),
        Item::hard_link("a/z", "a/y"),
        Item::file("a/z", "apart"),
        Item::directory("b/c", 0o711),
        Item::file("b", "was a directory"),
        Item::directory("b", 0o1777),
    ])));
}
