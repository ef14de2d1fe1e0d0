//! Layers from archive to mounted stack, and what becomes of them.

mod damage;
mod lifecycle;
mod methods;
mod model;
mod stacks;
mod volumes;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use coracle_types::{ContainerId, Kind, Kinded};

use super::Snapshots;
use crate::error::Error;
use crate::id::{LayerId, chain_ids};
use crate::limits::Limits;
use crate::snapshotter::{LayerDescriptor, Layers, Prepared};
use crate::store::Layer;
use crate::testing::{Item, Tree, archive, digest, fast_directory, read_tree};
use crate::writer::Unpacked;

struct Node {
    snapshots: Snapshots,
    root: Root,
    layers: Layers,
}

/// A state directory, whose mounts go with it.
struct Root(tempfile::TempDir);

impl Root {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for layer in fs::read_dir(self.path().join("layers"))
            .into_iter()
            .flatten()
            .flatten()
        {
            crate::erofs::unmount(&layer.path().join("fs")).expect("ours");
        }
    }
}

/// A node for each form of layers. The kernel mounts images from no file in memory, and before 6.12 from
/// none at all: directories are tried alone there.
fn nodes() -> impl Iterator<Item = Node> {
    let place = tempfile::tempdir().expect("writable");
    let images = crate::erofs::probe(fs::File::open(place.path()).expect("made"));
    if let Err(reason) = &images {
        println!("no images here: {reason}");
    }
    let images = images.is_ok().then_some(Layers::Images);
    std::iter::once(Layers::Directories).chain(images).map(Node::of)
}

impl Node {
    fn new() -> Self {
        Self::of(Layers::Directories)
    }

    fn of(layers: Layers) -> Self {
        let root = Root(match layers {
            Layers::Directories => fast_directory(),
            _ => tempfile::tempdir().expect("writable"),
        });
        Self::open(root, layers)
    }

    fn open(root: Root, layers: Layers) -> Self {
        Self {
            snapshots: Snapshots::open_with(root.path(), Limits::default(), layers).expect("whole"),
            root,
            layers,
        }
    }

    /// As after a crash: nothing is put away.
    fn reopen(self) -> Self {
        let Self {
            snapshots,
            root,
            layers,
        } = self;
        drop(snapshots);
        Self::open(root, layers)
    }

    /// Pulls an image given by its layers' archives, bottom first, unpacking them in the order given.
    fn pull_in_order(&self, archives: &[Vec<u8>], order: &[usize]) -> Result<Vec<Layer>, Error> {
        let diff_ids: Vec<_> = archives.iter().map(|bytes| digest(bytes)).collect();
        let chain = chain_ids(&diff_ids);
        let mut unpacked: Vec<Option<Unpacked>> = archives.iter().map(|_| None).collect();
        for at in order {
            let layer = LayerDescriptor {
                diff_id: diff_ids[*at].clone(),
                chain_id: chain[*at].clone(),
                image: "test".into(),
            };
            unpacked[*at] = Some(match self.snapshots.prepare(&layer)? {
                Prepared::Present(present) => present.into(),
                Prepared::Wanted(writer) => writer.extract(&archives[*at][..])?,
            });
        }
        self.snapshots
            .finish_image(unpacked.into_iter().flatten().collect())
    }

    fn pull(&self, layers: &[Vec<Item>]) -> Result<Vec<Layer>, Error> {
        let archives: Vec<_> = layers.iter().map(|items| archive(items)).collect();
        self.pull_in_order(&archives, &(0..archives.len()).collect::<Vec<_>>())
    }

    fn view(&self, layers: &[Layer]) -> Tree {
        tree_of(&self.snapshots.view(&ids(layers)).expect("mountable"))
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.root.path().join("staging"))
            .expect("made")
            .count()
    }
}

fn tree_of(view: &OwnedFd) -> Tree {
    read_tree(Path::new(&format!("/proc/self/fd/{}", view.as_raw_fd())))
}

fn ids(layers: &[Layer]) -> Vec<LayerId> {
    layers.iter().map(|layer| layer.id().clone()).collect()
}

fn modes(tree: &Tree) -> Vec<(&str, u32)> {
    tree.iter()
        .map(|(path, node)| (path.to_str().expect("plain"), node.mode))
        .collect()
}

#[test]
fn implied_directories_keep_the_lower_ones_mode_as_root() {
    for node in nodes() {
        let layers = node
            .pull(&[
                vec![
                    Item::directory("./", 0o711),
                    Item {
                        owner: (7, 8),
                        ..Item::directory("tmp", 0o1777)
                    }
                    .pax("SCHILY.xattr.user.a", "1"),
                    Item::directory("tmp/deep", 0o700),
                ],
                vec![Item::file("tmp/deep/x", "1"), Item::directory("plain", 0o755)],
            ])
            .expect("legal");
        assert!(layers.last().expect("three").id().is_fix_up());
        let tree = node.view(&layers);
        assert_eq!(
            modes(&tree),
            [
                ("", 0o711),
                ("plain", 0o755),
                ("tmp", 0o1777),
                ("tmp/deep", 0o700),
                ("tmp/deep/x", 0o644)
            ]
        );
        assert_eq!(tree[Path::new("tmp")].owner, (7, 8));
        assert_eq!(
            tree[Path::new("tmp")].xattrs,
            [(b"user.a".to_vec(), b"1".to_vec())]
        );
        let again = node.pull(&[vec![Item::directory("./", 0o711)]]).expect("legal");
        assert_eq!(again.len(), 1, "nothing to fix");
    }
}

#[test]
fn containerd_13030_whiteouts_hold_when_layers_unpack_in_reverse_as_root() {
    for node in nodes() {
        let archives = [
            archive(&[
                Item::file("a/x", "1"),
                Item::file("a/y", "1"),
                Item::file("b/z", "1"),
            ]),
            archive(&[Item::file("a/.wh.x", ""), Item::file(".wh.b", "")]),
            archive(&[Item::file("a/new", "3"), Item::directory("b", 0o755)]),
        ];
        let layers = node.pull_in_order(&archives, &[2, 1, 0]).expect("legal");
        let tree = node.view(&layers);
        let names: Vec<&str> = tree.keys().filter_map(|path| path.to_str()).collect();
        assert_eq!(names, ["", "a", "a/new", "a/y", "b"]);
    }
}

#[test]
fn hard_links_into_lower_layers_are_filled_in_as_root() {
    for node in nodes() {
        let lower = Item {
            mode: 0o4755,
            owner: (5, 6),
            mtime: (1_600_000_000, 5),
            ..Item::file("bin/tool", "tool")
        };
        let upper = vec![
            Item::hard_link("sbin/tool", "bin/tool"),
            Item::hard_link("sbin/again", "sbin/tool"),
            Item::hard_link("sbin/third", "bin/tool"),
            Item::hard_link("sbin/link", "bin/link"),
        ];
        let base = vec![
            lower.pax("SCHILY.xattr.user.a", "1"),
            Item::symlink("bin/link", "tool"),
        ];
        let archives = [archive(&base), archive(&upper)];
        let layers = node.pull_in_order(&archives, &[1, 0]).expect("legal");
        assert!(layers[1].id().to_string().starts_with("chain:"));
        let tree = node.view(&layers);
        for name in ["sbin/tool", "sbin/again", "sbin/third"] {
            let (copy, own) = (&tree[Path::new(name)], &tree[Path::new("bin/tool")]);
            assert_eq!(
                (copy.mode, copy.owner, copy.mtime),
                (own.mode, own.owner, own.mtime),
                "{name}"
            );
            assert_eq!(
                (&copy.content, &copy.xattrs),
                (&own.content, &own.xattrs),
                "{name}"
            );
            assert_eq!(copy.same_as.as_deref(), Some(Path::new("sbin/again")), "{name}");
        }
        assert_eq!(tree[Path::new("sbin/link")].content, b"tool");
        let again = node.pull_in_order(&archives, &[0, 1]).expect("present");
        assert_eq!(ids(&again), ids(&layers));
        assert_eq!(node.staged(), 0);

        let elsewhere = [archive(&[Item::file("other", "")]), archive(&upper)];
        let error = node
            .pull_in_order(&elsewhere, &[0, 1])
            .expect_err("bin/tool is not there");
        assert!(matches!(error, Error::LinkTarget { .. }), "{error}");
        assert_eq!((error.kind(), node.staged()), (Kind::InvalidArgument, 0));
    }
}

#[test]
fn a_lower_link_is_followed_not_hidden_as_root() {
    for node in nodes() {
        let layers = node
            .pull(&[
                vec![
                    Item::directory("usr/lib", 0o711),
                    Item::file("usr/lib/old", "1"),
                    Item::symlink("lib", "usr/lib"),
                    Item::symlink("abs", "/usr/none"),
                ],
                vec![
                    Item::file("lib/new", "2"),
                    Item::file("lib/.wh.old", ""),
                    Item::file("lib/sub/x", "3"),
                    Item::file("abs/made", "4"),
                ],
            ])
            .expect("legal");
        let tree = node.view(&layers);
        assert_eq!(tree[Path::new("lib")].kind, 'l');
        assert_eq!(tree[Path::new("usr/lib")].mode, 0o711);
        let names: Vec<&str> = tree.keys().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            names,
            [
                "",
                "abs",
                "lib",
                "usr",
                "usr/lib",
                "usr/lib/new",
                "usr/lib/sub",
                "usr/lib/sub/x",
                "usr/none",
                "usr/none/made"
            ]
        );
        let again = node.pull(&[
            vec![Item::directory("lib", 0o755)],
            vec![Item::file("lib/new", "2")],
        ]);
        assert!(
            ids(&again.expect("legal"))
                .iter()
                .all(|id| !id.to_string().starts_with("chain:"))
        );
    }
}

#[test]
fn images_without_layers_and_missing_layers_are_told_apart_as_root() {
    for node in nodes() {
        let writable = node
            .snapshots
            .rootfs(&[], &ContainerId::generate())
            .expect("an empty root");
        assert_eq!(writable.lowers.len(), 1);
        assert_eq!(
            tree_of(&node.snapshots.view(&[]).expect("an empty root")).len(),
            1
        );
        let missing = [LayerId::diff(digest(b"x"))];
        assert!(matches!(
            node.snapshots.view(&missing),
            Err(Error::LayerMissing(_))
        ));
        let error = node
            .snapshots
            .rootfs(&missing, &ContainerId::generate())
            .expect_err("missing");
        assert_eq!(error.kind(), Kind::NotFound);
    }
}

#[test]
fn views_are_read_only_and_mounted_nowhere_as_root() {
    for node in nodes() {
        let layers = node
            .pull(&[vec![Item::file("a", "1")], vec![Item::file("b", "2")]])
            .expect("legal");
        let view = node.snapshots.view(&ids(&layers)).expect("mountable");
        let path = PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd()));
        assert_eq!(fs::read(path.join("a")).expect("readable"), b"1");
        let error = fs::write(path.join("c"), "x").expect_err("read-only");
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        // Other tests mount, but nothing of ours; images are mounted, each at its own layer.
        let root = node.root.path().to_str().expect("plain");
        let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let ours = |line: &&str| line.contains(root) && !line.contains(" - erofs ");
        assert_eq!(table.lines().filter(ours).count(), 0);
        let mounted = table.lines().filter(|line| line.contains(root)).count();
        let images = usize::from(node.layers == Layers::Images);
        assert_eq!(mounted, images * layers.len());
        drop(view);
        for layer in layers {
            node.snapshots.remove_layer(layer.id()).expect_err("held");
            let id = layer.id().clone();
            drop(layer);
            node.snapshots.remove_layer(&id).expect("unused");
        }
        let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        assert!(!table.contains(root), "a layer's mount goes with it");
        assert_eq!(node.staged(), 0);
    }
}

#[test]
fn whiteouts_with_nothing_below_are_not_seen_as_root() {
    for node in nodes() {
        let layers = node
            .pull(&[vec![Item::file("a/.wh.x", ""), Item::file("a/y", "")]])
            .expect("legal");
        let names: Vec<PathBuf> = node.view(&layers).into_keys().collect();
        assert_eq!(names, ["", "a", "a/y"].map(PathBuf::from));
        let layers = node
            .pull(&[
                vec![Item::file("b", "")],
                vec![Item::file("a/.wh.x", ""), Item::file("a/y", "")],
            ])
            .expect("legal");
        let names: Vec<PathBuf> = node.view(&layers).into_keys().collect();
        assert_eq!(names, ["", "a", "a/y", "b"].map(PathBuf::from));
    }
}

#[test]
fn an_opaque_root_hides_all_below_as_root() {
    for node in nodes() {
        let layers = node
            .pull(&[
                vec![Item::file("old", "")],
                vec![Item::file(".wh..wh..opq", ""), Item::file("new", "")],
            ])
            .expect("legal");
        let names: Vec<PathBuf> = node.view(&layers).into_keys().collect();
        assert_eq!(names, ["", "new"].map(PathBuf::from));
    }
}

#[test]
fn a_layer_that_an_image_has_twice_is_mounted_once_as_root() {
    for node in nodes() {
        let (empty, file) = (Vec::new(), |text| vec![Item::file("a", text)]);
        let layers = node
            .pull(&[
                empty.clone(),
                file("1"),
                empty.clone(),
                file("2"),
                file("1"),
                empty,
            ])
            .expect("legal");
        assert_eq!(node.view(&layers)[Path::new("a")].content, b"1");
        let writable = node
            .snapshots
            .rootfs(&ids(&layers), &ContainerId::generate())
            .expect("present");
        assert_eq!(writable.lowers.len(), 3);
    }
}

#[test]
fn too_many_layers_are_refused() {
    let node = Node::new();
    let bytes = archive(&[]);
    let layer = node
        .pull_in_order(std::slice::from_ref(&bytes), &[0])
        .expect("legal")
        .remove(0);
    let many: Vec<Unpacked> = (0..65_536).map(|_| layer.clone().into()).collect();
    assert!(matches!(
        node.snapshots.finish_image(many),
        Err(Error::TooManyLayers { .. })
    ));
}

#[test]
fn devices_and_fifos_are_made_as_root() {
    for node in nodes() {
        let items = vec![
            Item {
                device: (1, 3),
                mode: 0o6666,
                owner: (1, 2),
                ..Item::new(b'3', "null")
            },
            Item {
                device: (7, 300),
                ..Item::new(b'4', "loop")
            },
            Item {
                mode: 0o622,
                ..Item::new(b'6', "fifo")
            },
        ];
        let layers = node.pull(&[items]).expect("legal");
        node.view(&layers);
        let path = node.snapshots.store.layer_path(layers[0].id());
        let null = fs::metadata(path.join("null")).expect("made");
        assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
        assert_eq!((null.mode() & 0o7777, null.uid(), null.gid()), (0o6666, 1, 2));
        assert!(
            fs::metadata(path.join("loop"))
                .expect("made")
                .file_type()
                .is_block_device()
        );
        assert_eq!(
            fs::metadata(path.join("fifo")).expect("made").mode() & 0o7777,
            0o622
        );
    }
}

#[test]
fn an_emptied_directory_keeps_its_mode_as_root() {
    for node in nodes() {
        let base = vec![Item::directory("tmp", 0o1777), Item::file("tmp/old", "")];
        let layers = node.pull(&[
            base.clone(),
            vec![Item::file("tmp/.wh..wh..opq", ""), Item::file("tmp/new", "")],
        ]);
        let tree = node.view(&layers.expect("legal"));
        assert_eq!(modes(&tree), [("", 0o755), ("tmp", 0o1777), ("tmp/new", 0o644)]);
        // Removed and made anew, it is another directory.
        let layers = node.pull(&[base, vec![Item::file(".wh.tmp", ""), Item::file("tmp/new", "")]]);
        let tree = node.view(&layers.expect("legal"));
        assert_eq!(modes(&tree), [("", 0o755), ("tmp", 0o755), ("tmp/new", 0o644)]);
    }
}
