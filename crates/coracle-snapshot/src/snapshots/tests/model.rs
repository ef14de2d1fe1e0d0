//! Layers applied one after the other to a tree in memory: what the stack of directories must look like.

use std::collections::{BTreeMap, BTreeSet};

use crate::testing::Item;

/// What is compared of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: char,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) content: Vec<u8>,
}

const IMPLIED: (u32, (u32, u32)) = (0o755, (0, 0));

/// A tree by canonical paths; the root is the empty path.
#[derive(Debug, Clone)]
pub(super) struct Model {
    files: BTreeMap<Vec<u8>, Seen>,
}

/// What the layer being applied did.
#[derive(Default)]
pub(super) struct Layer {
    /// Paths that it made or described.
    touched: BTreeSet<Vec<u8>>,
    /// Directories that it described.
    described: BTreeSet<Vec<u8>>,
}

impl Model {
    pub(super) fn new() -> Self {
        let root = Seen {
            kind: 'd',
            mode: IMPLIED.0,
            owner: IMPLIED.1,
            content: Vec::new(),
        };
        Self {
            files: BTreeMap::from([(Vec::new(), root)]),
        }
    }

    pub(super) fn files(&self) -> &BTreeMap<Vec<u8>, Seen> {
        &self.files
    }

    /// Applies an entry; false, and nothing done, where it means nothing certain.
    pub(super) fn apply(&mut self, layer: &mut Layer, item: &Item) -> bool {
        let (parent, name) = split(&item.path);
        let Some(parent) = self.resolve(&parent) else {
            return false;
        };
        let below = |name: &[u8]| join(&parent, name);
        let target = below(name.strip_prefix(b".wh.").unwrap_or(&name));
        match (item.flag, name.strip_prefix(b".wh.")) {
            (_, Some(b".wh..opq")) => {
                if parent.is_empty() {
                    return false;
                }
                self.ensure(layer, &parent);
                for child in self.children(&parent) {
                    self.hide(layer, &child);
                }
            }
            (_, Some(_)) => {
                self.ensure(layer, &parent);
                self.hide(layer, &target);
            }
            (b'5', None) => {
                self.ensure(layer, &parent);
                if self.files.get(&target).is_none_or(|there| there.kind != 'd') {
                    self.remove(&target);
                }
                layer.described.insert(target.clone());
                self.put(layer, target, item, 'd', Vec::new());
            }
            (b'1', None) => {
                let Some(source) = self
                    .files
                    .get(&item.link)
                    .filter(|there| there.kind != 'd')
                    .cloned()
                else {
                    return false;
                };
                if item.link == target || item.link.starts_with(&join(&target, b"")) {
                    return false;
                }
                self.ensure(layer, &parent);
                self.remove(&target);
                layer.described.remove(&target);
                layer.touched.insert(target.clone());
                self.files.insert(target, source);
            }
            (flag, None) => {
                self.ensure(layer, &parent);
                self.remove(&target);
                layer.described.remove(&target);
                let (kind, content) = if flag == b'2' {
                    ('l', item.link.clone())
                } else {
                    ('f', item.data.clone())
                };
                self.put(layer, target, item, kind, content);
            }
        }
        true
    }

    /// Where a directory's path leads, links followed; `None` through a file or a circle.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut ahead: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(name) = ahead.pop() {
            let next = join(&at, &name);
            match self.files.get(&next) {
                Some(there) if there.kind == 'l' => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if there.content.starts_with(b"/") {
                        at.clear();
                    }
                    ahead.extend(parts(&there.content).rev().map(<[u8]>::to_vec));
                }
                Some(there) if there.kind != 'd' => return None,
                _ => at = next,
            }
        }
        Some(at)
    }

    /// Whether the path of a directory passes a symbolic link.
    pub(super) fn passes_link(&self, path: &[u8]) -> bool {
        self.resolve(path).is_none_or(|end| end != path)
    }

    fn ensure(&mut self, layer: &mut Layer, path: &[u8]) {
        let mut at = Vec::new();
        for name in parts(path) {
            at = join(&at, name);
            let implied = Seen {
                kind: 'd',
                mode: IMPLIED.0,
                owner: IMPLIED.1,
                content: Vec::new(),
            };
            self.files.entry(at.clone()).or_insert(implied);
            layer.touched.insert(at.clone());
        }
    }

    fn put(&mut self, layer: &mut Layer, path: Vec<u8>, item: &Item, kind: char, content: Vec<u8>) {
        let mode = if kind == 'l' { 0o777 } else { item.mode };
        layer.touched.insert(path.clone());
        self.files.insert(
            path,
            Seen {
                kind,
                mode,
                owner: item.owner,
                content,
            },
        );
    }

    fn children(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let below = join(path, b"");
        let is_child = |key: &&Vec<u8>| {
            key.strip_prefix(&below[..])
                .is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/'))
        };
        self.files.keys().filter(is_child).cloned().collect()
    }

    fn remove(&mut self, path: &[u8]) {
        let below = join(path, b"");
        self.files
            .retain(|key, _| key != path && !key.starts_with(&below));
    }

    /// Removes what this layer did not make.
    fn hide(&mut self, layer: &Layer, path: &[u8]) {
        let below = join(path, b"");
        let is_own = |key: &Vec<u8>| layer.touched.contains(key);
        self.files
            .retain(|key, _| (key != path && !key.starts_with(&below)) || is_own(key));
        for (key, there) in &mut self.files {
            if (key == path || key.starts_with(&below)) && there.kind == 'd' && !layer.described.contains(key)
            {
                (there.mode, there.owner) = IMPLIED;
            }
        }
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

fn split(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path[..slash].to_vec(), path[slash + 1..].to_vec()),
        None => (Vec::new(), path.to_vec()),
    }
}
