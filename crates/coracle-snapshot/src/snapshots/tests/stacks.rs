//! Stacks of layers that were unpacked alone and in any order, against the same applied one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::{Layer, Model, Seen};
use super::{Node, tree_of};
use crate::error::Error;
use crate::testing::{Item, archive};

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn item() -> impl Strategy<Value = Item> {
    let kind = prop::sample::select(vec!['f', 'f', 'd', 'd', 'l', 'h', 'w', 'w', 'o']);
    let mode = prop::sample::select(vec![0o755, 0o700, 0o1777, 0o2711]);
    let owner = prop::sample::select(vec![(0, 0), (1000, 100)]);
    (kind, path(), path(), mode, owner, 0_u8..100).prop_map(|(kind, path, link, mode, owner, byte)| {
        let marked = |mark: &str| match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/{}", mark.replace("NAME", name)),
            None => mark.replace("NAME", &path),
        };
        match kind {
            'f' => Item {
                mode,
                owner,
                ..Item::file(&path, [byte])
            },
            'd' => Item {
                owner,
                ..Item::directory(&path, mode)
            },
            'l' => Item {
                owner,
                ..Item::symlink(&path, format!("/{link}"))
            },
            'h' => Item::hard_link(&path, &link),
            'w' => Item::file(marked(".wh.NAME"), ""),
            _ => Item::file(format!("{path}/.wh..wh..opq"), ""),
        }
    })
}

/// Keeps the entries that mean something, and gives the tree that they make.
fn reference(layers: Vec<Vec<Item>>) -> (Vec<Vec<Item>>, BTreeMap<Vec<u8>, Seen>) {
    let mut model = Model::new();
    let mut kept = Vec::new();
    for items in layers {
        let before = model.clone();
        let (mut layer, mut alone, mut alone_layer) = (Layer::default(), Model::new(), Layer::default());
        let mut own: Vec<Item> = Vec::new();
        for item in items {
            if !settled(&item, &own, &before, &alone) {
                continue;
            }
            let mut next = model.clone();
            if next.apply(&mut layer, &item) {
                alone.apply(&mut alone_layer, &item);
                model = next;
                own.push(item);
            }
        }
        kept.push(own);
    }
    (kept, model.files().clone())
}

/// Whether an entry's meaning does not hang on its place among the others of its layer: a layer that
/// removes or replaces a symbolic link of a lower layer and also goes through it is read differently by
/// everyone.
fn settled(item: &Item, own: &[Item], before: &Model, alone: &Model) -> bool {
    let path = &item.path;
    let parent = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(&b""[..], |slash| &path[..slash]);
    let is_mark = path.windows(4).any(|window| window == b".wh.");
    let through_lower = before.passes_link(parent);
    let removes_or_links =
        |other: &Item| other.flag != b'0' || other.path.windows(4).any(|window| window == b".wh.");
    // Through a link of a lower layer: only plain files, in a layer that has plain files only.
    if through_lower {
        return item.flag == b'0' && !is_mark && !own.iter().any(removes_or_links);
    }
    if removes_or_links(item) && own.iter().any(|other| through(other, before)) {
        return false;
    }
    // Hard links name files by paths without links.
    if item.flag == b'1' {
        let link = &item.link;
        let parent = link
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(&b""[..], |slash| &link[..slash]);
        return !before.passes_link(parent) && !alone.passes_link(parent);
    }
    !(is_mark && alone.passes_link(parent))
}

fn through(item: &Item, before: &Model) -> bool {
    let path = &item.path;
    let parent = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(&b""[..], |slash| &path[..slash]);
    before.passes_link(parent)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_root_a_stack_is_what_sequential_application_makes(
        layers in prop::collection::vec(prop::collection::vec(item(), 1..10), 1..5),
        seed in any::<u64>(),
    ) {
        let (layers, expected) = reference(layers);
        let archives: Vec<Vec<u8>> = layers.iter().map(|items| archive(items)).collect();
        let mut order: Vec<usize> = (0..archives.len()).collect();
        order.sort_by_key(|at| seed.rotate_left(*at as u32 * 13) % 97);
        let node = Node::new();
        let finished = match node.pull_in_order(&archives, &order) {
            Ok(finished) => finished,
            // Reached by two paths, one of them through a lower layer's link: refused, in words.
            Err(Error::AmbiguousLink { .. }) => return Ok(()),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                return Err(TestCaseError::fail(format!("{error}: {cause:?}: {layers:?}")));
            }
        };
        let view = node.snapshots.view(&super::ids(&finished)).expect("mountable");
        let seen: BTreeMap<Vec<u8>, Seen> = tree_of(&view)
            .into_iter()
            .map(|(path, node)| {
                let seen = Seen { kind: node.kind, mode: node.mode, owner: node.owner, content: node.content };
                (path.into_os_string().into_encoded_bytes(), seen)
            })
            .collect();
        prop_assert_eq!(seen, expected, "{:?}", layers);
    }
}
