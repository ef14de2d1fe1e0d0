//! Each way to tell the kernel of a view's layers, by itself: a kernel that knows the newest uses no other.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{Node, ids, tree_of};
use crate::snapshots::view::Method;
use crate::store::Layer;
use crate::testing::{Item, Tree};

/// An image of which every second layer hides a file of the one before it.
fn pulled(node: &Node, count: usize) -> (Vec<Layer>, Vec<PathBuf>) {
    let layers: Vec<Vec<Item>> = (0..count)
        .map(|at| {
            let number = at.to_string();
            let mut layer = vec![Item::file(format!("f{at}"), &number), Item::file("top", &number)];
            if at % 2 == 1 {
                layer.push(Item::file(format!(".wh.f{}", at - 1), ""));
            }
            layer
        })
        .collect();
    let layers = node.pull(&layers).expect("legal");
    let path = |layer: &Layer| node.snapshots.store.layer_path(layer.id());
    let lowers = layers.iter().rev().map(path).collect();
    (layers, lowers)
}

fn is_as_pulled(tree: &Tree, count: usize) {
    assert_eq!(tree.len(), 2 + count / 2, "the root, `top`, and one of two files");
    for at in 0..count {
        let name = format!("f{at}");
        assert_eq!(tree.contains_key(Path::new(&name)), at % 2 == 1, "{name}");
    }
    assert_eq!(tree[Path::new("top")].content, (count - 1).to_string().as_bytes());
}

fn is_read_only(view: &OwnedFd) {
    let path = format!("/proc/self/fd/{}/new", view.as_raw_fd());
    let error = fs::write(path, "x").expect_err("read-only");
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

fn forced(method: Method, count: usize) {
    let node = Node::new();
    let (layers, lowers) = pulled(&node, count);
    let directory = std::env::current_dir().expect("there");
    let view = node
        .snapshots
        .mount_by_first(&[method], &lowers)
        .expect("mountable");
    let tree = tree_of(&view);
    is_as_pulled(&tree, count);
    is_read_only(&view);
    assert_eq!(
        tree,
        tree_of(&node.snapshots.view(&ids(&layers)).expect("mountable"))
    );

    // It is nowhere but in its descriptor, and this process is where it was.
    let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    assert!(!table.contains(node.root.path().to_str().expect("plain")));
    assert_eq!(std::env::current_dir().expect("there"), directory);
    assert_eq!(node.staged(), 0);
}

/// `lowerdir+` is in every Linux from 6.7 on.
fn has_each() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_str().expect("ASCII");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    let mut next = || numbers.next().expect("two numbers").expect("a number");
    (next(), next()) >= (6, 7)
}

#[test]
fn views_with_an_option_a_layer_as_root() {
    for count in [2, 4, 128] {
        if has_each() {
            forced(Method::Each, count);
            continue;
        }
        // Refused in the way that lets the next method have its turn.
        let node = Node::new();
        let (layers, lowers) = pulled(&node, count);
        let each = node.snapshots.mount_by_first(&[Method::Each], &lowers);
        assert!(each.is_err(), "older kernels do not know it");
        is_as_pulled(&node.view(&layers), count);
    }
}

#[test]
fn views_with_one_option_for_few_layers_as_root() {
    forced(Method::Joined, 2);
    forced(Method::Joined, 4);
}

#[test]
fn views_by_the_old_mount_call_as_root() {
    for count in [2, 4, 128, 400] {
        forced(Method::Page, count);
    }
}

#[test]
fn views_go_from_a_method_that_does_not_do_to_the_next_as_root() {
    let node = Node::new();
    let (_, lowers) = pulled(&node, 128);
    let joined = node.snapshots.mount_by_first(&[Method::Joined], &lowers);
    assert!(joined.expect_err("too long").to_string().contains("255"));
    let view = node
        .snapshots
        .mount_by_first(&[Method::Joined, Method::Page], &lowers)
        .expect("by the second");
    is_as_pulled(&tree_of(&view), 128);
}
