//! Layers that somebody damages by hand, and removed ones whose mount somebody has copied.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::mount::{OpenTreeFlags, open_tree};

use super::{Node, ids, nodes};
use crate::id::LayerId;
use crate::snapshotter::Layers;
use crate::testing::Item;

fn items() -> Vec<Item> {
    vec![
        Item::directory("d", 0o755),
        Item::file("d/a", vec![b'a'; 9000]),
        Item::file("d/b", "b"),
    ]
}

fn place(node: &Node, layer: &LayerId) -> PathBuf {
    node.root.path().join("layers").join(layer.directory())
}

/// What a hand may do to a layer's directory, and whether the start itself finds it.
type Damage = (&'static str, fn(&Path), bool);

fn damages(layers: Layers) -> Vec<Damage> {
    fn image(place: &Path) -> fs::File {
        let path = place.join("layer.erofs");
        fs::File::options().write(true).open(path).expect("an image")
    }
    if layers == Layers::Directories {
        vec![
            (
                "a file removed",
                |place| fs::remove_file(place.join("fs/d/b")).unwrap(),
                false,
            ),
            (
                "a file added",
                |place| fs::write(place.join("fs/new"), "").unwrap(),
                false,
            ),
            (
                "a file changed",
                |place| fs::write(place.join("fs/d/a"), "A").unwrap(),
                false,
            ),
            (
                "the tree removed",
                |place| fs::remove_dir_all(place.join("fs")).unwrap(),
                true,
            ),
            (
                "no record",
                |place| fs::remove_file(place.join("layer.json")).unwrap(),
                true,
            ),
        ]
    } else {
        vec![
            ("cut off", |place| image(place).set_len(4096).unwrap(), true),
            (
                "removed",
                |place| fs::remove_file(place.join("layer.erofs")).unwrap(),
                true,
            ),
            (
                "a byte",
                |place| image(place).write_all_at(b"x", 8000).unwrap(),
                true,
            ),
            (
                "the superblock",
                |place| image(place).write_all_at(b"x", 1030).unwrap(),
                true,
            ),
            (
                "no record",
                |place| fs::remove_file(place.join("layer.json")).unwrap(),
                true,
            ),
        ]
    }
}

#[test]
fn damage_by_hand_is_found_and_just_that_layer_is_wanted_again_as_root() {
    for form in nodes().map(|node| node.layers) {
        for (name, damage, at_start) in damages(form) {
            let node = Node::of(form);
            let layers = ids(&node
                .pull(&[items(), vec![Item::file("other", "y")]])
                .expect("legal"));
            for layer in &layers {
                assert_eq!(node.snapshots.examine(layer).expect("looks"), None, "{name}");
            }
            damage(&place(&node, &layers[0]));
            let node = node.reopen();
            assert_eq!(node.snapshots.has(&layers[0]), !at_start, "{name}");
            let found = node.snapshots.examine(&layers[0]).expect("looks");
            assert_eq!(found.is_some(), !at_start, "{name}: {found:?}");
            assert_eq!(node.snapshots.layers(), [layers[1].clone()], "{name}");
            assert_eq!(node.staged(), 0, "{name}");
            let again = node
                .pull(&[items(), vec![Item::file("other", "y")]])
                .expect("wanted again");
            assert!(node.view(&again).contains_key(Path::new("d/b")), "{name}");
        }
    }
}

#[test]
fn a_container_keeps_its_damaged_layer_until_it_is_removed_as_root() {
    for form in nodes().map(|node| node.layers) {
        let node = Node::of(form);
        let container = "c".repeat(64).parse().expect("an id");
        let layers = ids(&node.pull(&[items()]).expect("legal"));
        node.snapshots.rootfs(&layers, &container).expect("made");
        let (_, damage, _) = damages(form)[0];
        let inside = fs::File::open(place(&node, &layers[0]).join("fs/d/a")).expect("in use");
        damage(&place(&node, &layers[0]));
        let node = node.reopen();
        node.snapshots.examine(&layers[0]).expect("looks");
        assert!(!node.snapshots.has(&layers[0]));
        assert_eq!(node.staged(), 1, "it was taken from the container");
        assert!(inside.metadata().expect("open").nlink() > 0);
        // Through another start, and beside the layer that is pulled again.
        let node = node.reopen();
        assert_eq!(node.staged(), 1);
        node.pull(&[items()]).expect("wanted again");
        node.snapshots
            .gc(&layers.iter().cloned().collect())
            .expect("ours");
        assert_eq!(node.staged(), 1, "it was taken from the container");
        node.snapshots.remove_writable(&container).expect("ours");
        node.snapshots
            .gc(&layers.iter().cloned().collect())
            .expect("ours");
        assert_eq!(node.staged(), 0);
        assert!(node.snapshots.has(&layers[0]));
    }
}

#[test]
fn images_that_a_node_cannot_mount_any_more_are_wanted_again_as_directories_as_root() {
    for node in nodes().filter(|node| node.layers == Layers::Images) {
        let layers = ids(&node.pull(&[items()]).expect("legal"));
        let memory = crate::testing::fast_directory();
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(node.root.path().join("."))
            .arg(memory.path())
            .status();
        assert!(copied.expect("cp").success());
        if crate::erofs::probe(fs::File::open(memory.path()).expect("made")).is_ok() {
            println!("no file system in memory here: nothing to see");
            return;
        }
        let node = Node::open(super::Root(memory), Layers::Auto);
        assert!(!node.snapshots.has(&layers[0]));
        assert_eq!(node.staged(), 0);
        let again = node.pull(&[items()]).expect("wanted again");
        assert!(node.view(&again).contains_key(Path::new("d/b")));
        assert!(!place(&node, &layers[0]).join("layer.erofs").exists());
    }
}

#[test]
fn a_removed_images_bytes_are_free_although_somebody_has_its_mount_as_root() {
    for node in nodes().filter(|node| node.layers == Layers::Images) {
        let layers = ids(&node.pull(&[items()]).expect("legal"));
        node.snapshots.view(&layers).expect("mounted");
        let place = place(&node, &layers[0]);
        let image = fs::File::open(place.join("layer.erofs")).expect("an image");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(rustix::fs::CWD, place.join("fs"), flags).expect("as root");
        node.snapshots
            .gc(&std::collections::HashSet::new())
            .expect("nobody of ours has it");
        assert_eq!(image.metadata().expect("open").blocks(), 0);
        // Only errors are left of it.
        let inside = format!("/proc/self/fd/{}/d/a", copy.as_raw_fd());
        fs::read(inside).expect_err("no bytes are left");
    }
}
