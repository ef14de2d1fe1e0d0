//! Stacks of layers that were unpacked alone and in any order, against the same applied one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::{Layer, Model, Seen};
use super::{nodes, tree_of};
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
        let mut settling = Settling {
            before: model.clone(),
            alone: Model::new(),
            only_files: true,
            went_through: false,
        };
        let (mut layer, mut alone_layer) = (Layer::default(), Layer::default());
        let mut own: Vec<Item> = Vec::new();
        for item in items {
            let mut next = model.clone();
            if settling.takes(&item, &model) && next.apply(&mut layer, &item) {
                settling.alone.apply(&mut alone_layer, &item);
                settling.only_files &= is_plain_file(&item);
                model = next;
                own.push(item);
            }
        }
        kept.push(own);
    }
    (kept, model.files().clone())
}

/// Tells entries whose meaning hangs on their place among the others of their layer: a layer that changes a
/// symbolic link of a lower one and also goes through it is read differently by everyone.
struct Settling {
    before: Model,
    /// The layer by itself.
    alone: Model,
    only_files: bool,
    /// An entry went through a link of a lower layer.
    went_through: bool,
}

impl Settling {
    fn takes(&mut self, item: &Item, model: &Model) -> bool {
        let directory = parent(&item.path);
        if model.resolve(directory) != self.alone.resolve(directory) {
            // Through a link of a lower layer: only plain files, in a layer that has plain files only.
            let takes = is_plain_file(item) && self.only_files;
            self.went_through |= takes;
            return takes;
        }
        let below = [&item.path[..], b"/"].concat();
        let replaces_link = self
            .before
            .files()
            .iter()
            .any(|(path, there)| there.kind == 'l' && (*path == item.path || path.starts_with(&below)));
        if self.went_through && (!is_plain_file(item) || replaces_link) {
            return false;
        }
        // Hard links and marks name files by paths without links.
        match item.flag {
            b'1' => {
                let target = parent(&item.link);
                !self.before.passes_link(target) && !self.alone.passes_link(target)
            }
            _ => !is_mark(item) || !self.alone.passes_link(directory),
        }
    }
}

fn is_mark(item: &Item) -> bool {
    item.path.windows(4).any(|window| window == b".wh.")
}

fn is_plain_file(item: &Item) -> bool {
    item.flag == b'0' && !is_mark(item)
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter()
        .rposition(|byte| *byte == b'/')
        .map_or(b"", |slash| &path[..slash])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_root_a_stack_is_what_sequential_application_makes(
        layers in prop::collection::vec(prop::collection::vec(item(), 1..10), 1..5),
        seed in any::<u64>(),
    ) {
        let (layers, expected) = reference(layers);
        let archives: Vec<Vec<u8>> = layers.iter().map(|items| archive(items)).collect();
        let mut order: Vec<usize> = (0..archives.len()).collect();
        order.sort_by_key(|at| seed.rotate_left(*at as u32 * 13) % 97);
        // Images with every second case: mounting them is most of the time.
        for node in nodes().take(1 + (seed % 2) as usize) {
        let finished = match node.pull_in_order(&archives, &order) {
            Ok(finished) => finished,
            // Reached by two paths, one of them through a lower layer's link: refused, in words.
            Err(Error::AmbiguousLink { .. }) => continue,
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
        prop_assert_eq!(&seen, &expected, "{:?}", layers);
        }
    }
}
