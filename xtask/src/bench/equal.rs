//! Whether all runtimes make the same tree of an image: hidden, replaced, linked and implied entries.
//!
//! Images are generated as builders could make them, layer upon layer, and each runtime's container tells
//! what it sees.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, Entry, EntryKind, Image, ImageBuilder, Layer};

use super::contestant::{Contestant, HOST};

const IMAGES: u64 = 12;
const LAYERS: usize = 6;
const ENTRIES: usize = 30;

/// All below /tree: kind, mode, owner, device, size, time and content; of directories neither size nor
/// time, which nobody records for implied ones.
const SCRIPT: &str = "cd /tree && find . ! -type d -exec stat -c '%n|%F|%a|%u:%g|%t:%T|%s|%Y' {} + | sort && \
                      find . -type d -exec stat -c '%n|%F|%a|%u:%g' {} + | sort && \
                      find . -type l -exec sh -c 'echo \"$0|$(readlink $0)\"' {} \\; | sort && \
                      find . -type f -exec sha256sum {} + | sort";

/// Compares the trees of all contestants; one alone has nobody to differ from.
pub(super) async fn check(contestants: &[Contestant]) -> Result<()> {
    if contestants.len() < 2 {
        return Ok(());
    }
    for seed in 0..IMAGES {
        let image = image(seed)?;
        let name = format!("equal{seed}");
        let mut trees = Vec::new();
        for contestant in contestants {
            contestant.registry.push(&image, &name, "1").await?;
            trees.push(tree(contestant, &format!("{HOST}/{name}:1")).await?);
        }
        for (contestant, other) in contestants.iter().zip(&trees).skip(1) {
            let differs = |left: &str, right: &str| -> Vec<String> {
                left.lines()
                    .filter(|line| !right.lines().any(|other| other == *line))
                    .take(10)
                    .map(str::to_owned)
                    .collect()
            };
            ensure!(
                *other == trees[0],
                "image {seed}: the tree of {} differs from ours; ours: {:#?} theirs: {:#?}",
                contestant.name,
                differs(&trees[0], other),
                differs(other, &trees[0]),
            );
        }
    }
    println!("{IMAGES} images of {LAYERS} layers: the same trees in all runtimes.");
    Ok(())
}

async fn tree(contestant: &Contestant, reference: &str) -> Result<String> {
    let runtime = &contestant.runtime;
    runtime.pull(reference).await?;
    let parent = contestant.cgroup_parent();
    let pod = runtime
        .run_pod(PodSpec::new("equal").linux(|linux| linux.cgroup_parent = parent))
        .await?;
    let container = pod
        .run(&ContainerSpec::script("equal", reference, SCRIPT))
        .await?;
    let status = container.exited().await?;
    let lines: Vec<String> = container
        .log_lines()?
        .into_iter()
        .map(|(_, _, text)| text)
        .collect();
    pod.remove().await?;
    runtime.remove_image(reference).await?;
    let text = lines.join("\n");
    ensure!(status.exit_code == 0, "{}: {text}", contestant.name);
    Ok(text)
}

/// What a builder knows of the tree while it makes the next layer: each path, and whether it is a
/// directory and of which layer.
#[derive(Default)]
struct Builder {
    paths: BTreeMap<String, (bool, usize)>,
    /// What this layer takes away.
    gone: BTreeSet<String>,
    random: u64,
}

impl Builder {
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit.max(1) as u64) as usize
    }

    fn pick(&mut self, fits: impl Fn(&str, bool, usize) -> bool) -> Option<String> {
        let fitting: Vec<String> = self
            .paths
            .iter()
            .filter(|(path, (directory, layer))| fits(path, *directory, *layer))
            .map(|(path, _)| path.clone())
            .collect();
        let at = self.below(fitting.len());
        fitting.get(at).cloned()
    }

    /// Whether a layer has put something into a directory; containerd does not find a directory again that a
    /// later entry of the same layer takes away with the one above it.
    fn has_inside(&self, directory: &str, layer: usize) -> bool {
        let inside = format!("{directory}/");
        let mut paths = self.paths.iter();
        paths.any(|(path, (_, made))| *made == layer && path.starts_with(&inside))
            || self.gone.iter().any(|path| path.starts_with(&inside))
    }

    fn forget(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.paths
            .retain(|known, _| known != path && !known.starts_with(&inside));
    }

    /// Changes the tree by one entry of a layer.
    fn step(&mut self, layer: usize, entries: &mut Vec<Entry>) {
        let Some(parent) = self.pick(|_, directory, _| directory) else {
            return;
        };
        let fresh = format!("{parent}/n{}", self.below(9));
        let mode = [0o644, 0o755, 0o4755, 0o1777, 0o600][self.below(5)];
        let owner = (self.below(3) as u64 * 1000, self.below(3) as u64);
        let mut put =
            |path: &str, mode, kind| entries.push(Entry::new(path, mode, kind).owned_by(owner.0, owner.1));
        if self.gone.contains(&fresh) {
            return;
        }
        let touched = self.paths.get(&fresh).is_some_and(|(_, made)| *made == layer);
        match self.below(9) {
            // Over a file, or over a directory of a lower layer, which it replaces.
            0 | 1 if !touched && !self.has_inside(&fresh, layer) => {
                let content = vec![b'a' + self.below(26) as u8; self.below(3000)];
                put(&fresh, mode, EntryKind::File(content));
                self.forget(&fresh);
                self.paths.insert(fresh, (false, layer));
            }
            2 => {
                let is_file = self.paths.get(&fresh).is_some_and(|(directory, _)| !directory);
                if touched && is_file {
                    return;
                }
                put(&fresh, mode, EntryKind::Directory);
                if is_file {
                    self.forget(&fresh);
                }
                self.paths.insert(fresh, (true, layer));
            }
            3 if !touched && !self.paths.contains_key(&fresh) => {
                put(&fresh, 0o777, EntryKind::Symlink(format!("n{}", self.below(9))));
                self.paths.insert(fresh, (false, layer));
            }
            // Into this layer: containerd takes no hard link into a lower one.
            4 if !self.paths.contains_key(&fresh) => {
                let Some(target) = self.pick(|_, directory, made| !directory && made == layer) else {
                    return;
                };
                // With what its file has, as archives are made: what differs is taken by one and left by another.
                let Some(file) = entries.iter().rfind(|entry| entry.path == target) else {
                    return;
                };
                let (mode, owner) = (file.mode, file.owner);
                let link = Entry::new(&fresh, mode, EntryKind::HardLink(target));
                entries.push(link.owned_by(owner.0, owner.1));
                self.paths.insert(fresh, (false, layer));
            }
            5 => {
                let Some(gone) = self.pick(|path, _, made| made < layer && path != "tree") else {
                    return;
                };
                if self.has_inside(&gone, layer) {
                    return;
                }
                let (above, name) = gone.rsplit_once('/').unwrap_or(("", &gone));
                put(&format!("{above}/.wh.{name}"), 0o644, EntryKind::File(Vec::new()));
                self.forget(&gone);
                // It must not come again in this layer: the order of entries would decide.
                self.gone.insert(gone);
            }
            6 => {
                let Some(hidden) =
                    self.pick(|path, directory, made| directory && made < layer && path != "tree")
                else {
                    return;
                };
                if self.has_inside(&hidden, layer) {
                    return;
                }
                put(&hidden, mode, EntryKind::Directory);
                put(
                    &format!("{hidden}/.wh..wh..opq"),
                    0o644,
                    EntryKind::File(Vec::new()),
                );
                self.forget(&hidden);
                self.paths.insert(hidden, (true, layer));
            }
            7 if !self.paths.contains_key(&fresh) => {
                put(&fresh, mode, EntryKind::Fifo);
                self.paths.insert(fresh, (false, layer));
            }
            _ => {}
        }
    }
}

fn image(seed: u64) -> Result<Image> {
    let mut builder = Builder {
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        ..Builder::default()
    };
    builder.paths.insert("tree".to_owned(), (true, 0));
    let base = busybox_root()?.directory("/tree", 0o751).build();
    let mut image = ImageBuilder::new()
        .layer(base, Compression::Gzip)
        .env("PATH=/bin");
    for layer in 1..=LAYERS {
        let mut entries = Vec::new();
        builder.gone.clear();
        for _ in 0..ENTRIES {
            builder.step(layer, &mut entries);
        }
        let archive = entries.into_iter().fold(Layer::new(), Layer::entry).build();
        image = image.layer(archive, [Compression::Gzip, Compression::Zstd][layer % 2]);
    }
    Ok(image.build())
}
