//! Layers that are kept for what is mounted in containers, and layers of artifacts.

use std::collections::HashSet;
use std::path::Path;

use coracle_types::ContainerId;

use super::{Node, ids, tree_of};
use crate::error::Error;
use crate::id::LayerId;
use crate::snapshotter::{Prepared, Usage};
use crate::testing::{Item, archive, digest};
use crate::writer::Unpacked;

#[test]
fn layers_are_kept_for_a_container_until_it_is_removed() {
    let mut node = Node::new();
    let (root, volume) = (vec![Item::file("root", "r")], vec![Item::file("volume", "v")]);
    let root = ids(&node.pull(&[root]).expect("legal"));
    let volume = ids(&node.pull(&[volume]).expect("legal"));
    let container = ContainerId::generate();
    assert!(matches!(
        node.snapshots.keep_for(&container, &volume),
        Err(Error::WritableMissing(_))
    ));
    node.snapshots.rootfs(&root, &container).expect("present");
    node.snapshots.keep_for(&container, &volume).expect("present");
    node.snapshots
        .keep_for(&container, &volume)
        .expect("a second time");
    for _ in 0..2 {
        assert_eq!(
            node.snapshots.gc(&HashSet::new()).expect("removable"),
            Usage::default()
        );
        assert!(matches!(
            node.snapshots.remove_layer(&volume[0]),
            Err(Error::LayerInUse { .. })
        ));
        node = node.reopen();
    }
    assert_eq!(
        node.snapshots.lowers(&volume).expect("present"),
        [node.snapshots.store.layer_path(&volume[0])]
    );
    let all = node.snapshots.usage();
    node.snapshots.remove_writable(&container).expect("removable");
    let freed = node.snapshots.gc(&HashSet::new()).expect("removable");
    // A layer's record and its directory go, too.
    assert!(
        freed.bytes >= all.bytes && freed.inodes == all.inodes + 4,
        "{freed:?}"
    );
    assert_eq!(node.snapshots.usage(), Usage::default());
    node.snapshots.rootfs(&[], &container).expect("present");
    assert!(matches!(
        node.snapshots.keep_for(&container, &volume),
        Err(Error::LayerMissing(_))
    ));
}

#[test]
fn an_artifact_is_a_layer_by_its_manifest() {
    let node = Node::new();
    let manifest = digest(b"manifest");
    let files = archive(&[
        Item::file("weights", "w"),
        Item::directory("conf", 0o755),
        Item::file("conf/a", "a"),
    ]);
    let take = |bytes: &[u8]| match node.snapshots.prepare_artifact(&manifest).expect("asked") {
        Prepared::Wanted(writer) => writer.extract(bytes),
        Prepared::Present(layer) => Ok(Unpacked::from(layer)),
    };
    assert!(take(&files[..700]).is_err(), "it broke off");
    let layers = node
        .snapshots
        .finish_image(vec![take(&files).expect("legal")])
        .expect("legal");
    assert_eq!(ids(&layers), [LayerId::artifact(manifest.clone())]);
    let id = ids(&layers)[0].to_string();
    assert_eq!(id.parse::<LayerId>().expect("an id").to_string(), id);
    // It is not fetched twice, and found again.
    assert!(matches!(
        node.snapshots.prepare_artifact(&manifest),
        Ok(Prepared::Present(_))
    ));
    drop(layers);
    let node = node.reopen();
    let layers = [LayerId::artifact(manifest.clone())];
    let tree = tree_of(&node.snapshots.view(&layers).expect("mountable"));
    assert_eq!(tree[Path::new("conf/a")].content, b"a");
    assert_eq!(node.staged(), 0);
}
