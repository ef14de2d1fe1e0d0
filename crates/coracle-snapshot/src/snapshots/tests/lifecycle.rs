//! Publication, restart, collection and writable layers.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use coracle_types::{ContainerId, Kind, Kinded};

use super::super::Snapshots;
use super::{Node, ids, nodes};
use crate::error::Error;
use crate::limits::Limits;
use crate::snapshotter::{LayerDescriptor, Layers, Prepared};
use crate::store::Layer;
use crate::testing::{Item, archive, digest};
use crate::writer::Unpacked;

#[test]
fn a_wrong_digest_leaves_nothing_as_root() {
    for node in nodes() {
        let bytes = archive(&[Item::file("a", "x")]);
        let layer = LayerDescriptor {
            diff_id: digest(b"other"),
            chain_id: digest(b"other"),
            image: "i".into(),
        };
        let Ok(Prepared::Wanted(writer)) = node.snapshots.prepare(&layer) else {
            panic!("wanted")
        };
        let error = writer.extract(&bytes[..]).err().expect("refused");
        assert!(
            matches!(&error, Error::DigestMismatch { actual, .. } if *actual == digest(&bytes)),
            "{error}"
        );
        assert_eq!(node.staged(), 0);
        assert!(node.snapshots.layers().is_empty());

        // Bytes after the archive's end count.
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"trailing");
        let layer = |bytes: &[u8]| LayerDescriptor {
            diff_id: digest(bytes),
            chain_id: digest(bytes),
            image: "i".into(),
        };
        let Ok(Prepared::Wanted(writer)) = node.snapshots.prepare(&layer(&bytes)) else {
            panic!("wanted")
        };
        assert!(matches!(
            writer.extract(&longer[..]),
            Err(Error::DigestMismatch { .. })
        ));
        let Ok(Prepared::Wanted(writer)) = node.snapshots.prepare(&layer(&longer)) else {
            panic!("wanted")
        };
        assert!(matches!(writer.extract(&longer[..]), Ok(Unpacked::Whole(_))));
    }
}

#[test]
fn a_refused_layer_leaves_nothing_and_names_the_entry_as_root() {
    for node in nodes() {
        let error = node
            .pull(&[vec![Item::file("a", "x"), Item::file("../b", "y")]])
            .expect_err("refused");
        let cause = std::error::Error::source(&error).expect("has one").to_string();
        assert!(cause.contains("../b"), "{cause}");
        assert_eq!((error.kind(), node.staged()), (Kind::InvalidArgument, 0));
    }
}

#[test]
fn layers_survive_a_restart_and_leftovers_do_not_as_root() {
    for node in nodes() {
        let base = vec![Item::file("a", "x")];
        let layers = ids(&node
            .pull(&[base.clone(), vec![Item::file("b", "y")]])
            .expect("legal"));
        let usage = node.snapshots.layer_usage(&layers[0]);
        let root = node.root.path().to_owned();
        fs::create_dir_all(root.join("staging/half/fs/x")).expect("ours");
        fs::write(
            root.join("layers").join(layers[1].directory()).join("layer.json"),
            "{",
        )
        .expect("ours");
        fs::create_dir_all(root.join("layers/unknown/fs")).expect("ours");
        let node = node.reopen();
        assert_eq!(node.snapshots.layers(), [layers[0].clone()]);
        assert_eq!(node.snapshots.layer_usage(&layers[0]), usage);
        assert_eq!(node.staged(), 0);
        assert_eq!(fs::read_dir(root.join("layers")).expect("made").count(), 1);
        node.pull(&[base, vec![Item::file("b", "y")]])
            .expect("the broken one is made again");
    }
}

#[test]
fn one_process_at_a_time() {
    let node = Node::new();
    assert!(matches!(
        Snapshots::open_with(node.root.path(), Limits::default(), Layers::Directories),
        Err(Error::Locked { .. })
    ));
}

#[test]
fn state_is_private_as_root() {
    for node in nodes() {
        node.pull(&[vec![Item::file("a", "x")]]).expect("legal");
        for name in ["", "layers", "staging", "writable"] {
            let mode = fs::metadata(node.root.path().join(name)).expect("made").mode();
            assert_eq!(mode & 0o777, 0o700, "{name}");
        }
        fs::set_permissions(node.root.path().join("layers"), fs::Permissions::from_mode(0o777))
            .expect("ours");
        let node = node.reopen();
        assert_eq!(
            fs::metadata(node.root.path().join("layers"))
                .expect("made")
                .mode()
                & 0o777,
            0o700
        );
    }
}

#[test]
fn collection_leaves_what_is_kept_held_or_below_a_container_as_root() {
    for node in nodes() {
        let layer = |name: &str| {
            node.pull(&[vec![Item::file(name, vec![1; 9000])]])
                .expect("legal")
                .remove(0)
        };
        let (kept, held, below, gone) = (layer("a"), layer("b"), layer("c"), layer("d"));
        let all = [&kept, &held, &below, &gone].map(|layer| layer.id().clone());
        let container = ContainerId::generate();
        node.snapshots
            .rootfs(&[all[2].clone()], &container)
            .expect("present");
        drop((kept, below, gone));
        let freed = node
            .snapshots
            .gc(&HashSet::from([all[0].clone()]))
            .expect("removable");
        assert!(freed.bytes > 9000 && freed.inodes >= 3, "{freed:?}");
        assert_eq!(
            all.each_ref().map(|id| node.snapshots.has(id)),
            [true, true, true, false]
        );
        assert!(matches!(
            node.snapshots.remove_layer(&all[1]),
            Err(Error::LayerInUse { .. })
        ));
        assert!(matches!(
            node.snapshots.remove_layer(&all[2]),
            Err(Error::LayerInUse { .. })
        ));

        let container_layers = all[2].clone();
        drop(held);
        let node = node.reopen();
        node.snapshots.gc(&HashSet::new()).expect("removable");
        assert_eq!(
            node.snapshots.layers(),
            [container_layers],
            "a container's layers stay over a restart"
        );
        node.snapshots.remove_writable(&container).expect("removable");
        node.snapshots.gc(&HashSet::new()).expect("removable");
        assert!(node.snapshots.layers().is_empty());
        assert_eq!(node.staged(), 0);
    }
}

#[test]
fn writable_layers_take_the_roots_mode_and_go_with_all_in_them_as_root() {
    for node in nodes() {
        let layers = node
            .pull(&[
                vec![
                    Item {
                        owner: (3, 4),
                        ..Item::directory(".", 0o1770)
                    },
                    Item::file("etc/a", "1"),
                ],
                vec![Item::file("etc/b", "2")],
            ])
            .expect("legal");
        let (id, held) = (ContainerId::generate(), layers);
        let layers = ids(&held);
        drop(held);
        let writable = node.snapshots.rootfs(&layers, &id).expect("present");
        assert_eq!(
            node.snapshots.rootfs(&layers, &id).expect("found again"),
            writable
        );
        assert!(matches!(
            node.snapshots.rootfs(&layers[..1], &id),
            Err(Error::WritableExists(_))
        ));
        let upper = fs::metadata(&writable.upper).expect("made");
        assert_eq!((upper.mode() & 0o7777, upper.uid(), upper.gid()), (0o1770, 3, 4));
        assert_eq!(writable.lowers.len(), layers.len());
        assert!(writable.lowers.iter().all(|lower| lower.is_dir()));

        let target = tempfile::tempdir().expect("writable");
        let lowers: Vec<String> = writable
            .lowers
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lowers.join(":"),
            writable.upper.display(),
            writable.work.display()
        );
        let options = std::ffi::CString::new(options).expect("no zero");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(
            "overlay",
            target.path(),
            "overlay",
            flags,
            Some(options.as_c_str()),
        )
        .expect("mounts");
        fs::write(target.path().join("etc/new"), vec![1; 50_000]).expect("writable");
        fs::remove_file(target.path().join("etc/a")).expect("writable");
        rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::empty()).expect("ours");

        let usage = node.snapshots.writable_usage(&id).expect("countable");
        assert!(
            usage.bytes >= 50_000 && usage.inodes == 4,
            "{usage:?}: upper, etc, new, whiteout of a"
        );
        assert_eq!(node.snapshots.writables(), std::slice::from_ref(&id));
        let node = node.reopen();
        assert_eq!(node.snapshots.writables(), std::slice::from_ref(&id));
        node.snapshots.remove_writable(&id).expect("removable");
        node.snapshots
            .remove_writable(&id)
            .expect("what is gone is no error");
        assert!(matches!(
            node.snapshots.writable_usage(&id),
            Err(Error::WritableMissing(_))
        ));
        assert!(!writable.upper.exists() && node.staged() == 0 && node.snapshots.writables().is_empty());
    }
}

#[test]
fn two_pulls_of_one_layer_share_it_as_root() {
    for node in nodes() {
        let bytes = archive(&[Item::file("a", vec![7; 100_000])]);
        let results: Vec<Vec<Layer>> = std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        node.pull_in_order(std::slice::from_ref(&bytes), &[0])
                            .expect("legal")
                    })
                })
                .collect();
            pulls
                .into_iter()
                .map(|pull| pull.join().expect("no panic"))
                .collect()
        });
        assert!(results.iter().all(|layers| ids(layers) == ids(&results[0])));
        assert_eq!((node.snapshots.layers().len(), node.staged()), (1, 0));
    }
}

/// The process that the next test kills while it unpacks; run as a test of its own it does nothing.
#[test]
fn unpacks_until_killed_as_root() {
    struct Endless(Vec<u8>);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
                let number = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let name = format!("d/f{}", number.expect("after 1970").as_nanos());
                Item::file(name, vec![1; 300_000]).write(&mut self.0);
            }
            let take = self.0.len().min(buffer.len());
            buffer[..take].copy_from_slice(&self.0[..take]);
            self.0.drain(..take);
            Ok(take)
        }
    }
    let Some(root) = std::env::var_os("CORACLE_TEST_UNPACK_ROOT") else {
        return;
    };
    let snapshots =
        Snapshots::open_with(Path::new(&root), Limits::default(), Layers::Directories).expect("not locked");
    let layer = LayerDescriptor {
        diff_id: digest(b"x"),
        chain_id: digest(b"x"),
        image: "i".into(),
    };
    let Ok(Prepared::Wanted(writer)) = snapshots.prepare(&layer) else {
        panic!("wanted")
    };
    let _ = writer.extract(Endless(Vec::new()));
}

#[test]
fn killed_while_unpacking_nothing_is_left_as_root() {
    let node = Node::new();
    let layers = ids(&node.pull(&[vec![Item::file("a", "x")]]).expect("legal"));
    let Node {
        snapshots,
        root,
        layers: form,
    } = node;
    drop(snapshots);
    let mut child = std::process::Command::new(std::env::current_exe().expect("known"))
        .args([
            "--exact",
            "snapshots::tests::lifecycle::unpacks_until_killed_as_root",
        ])
        .env("CORACLE_TEST_UNPACK_ROOT", root.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("this program");
    let half_done = || {
        let staged = fs::read_dir(root.path().join("staging")).expect("made").flatten();
        staged
            .map(|entry| entry.path().join("fs/d"))
            .any(|path| path.is_dir())
    };
    while !half_done() {
        assert!(child.try_wait().expect("ours").is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().expect("ours");
    child.wait().expect("ours");
    let node = Node::open(root, form);
    assert_eq!(node.snapshots.layers(), layers);
    assert_eq!(node.staged(), 0);
}
