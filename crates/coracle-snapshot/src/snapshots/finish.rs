//! From unpacked layers to an image's stack: completes those that need lower ones, and makes the fix-up
//! layer that keeps implied directories from hiding what the lower layers say of them.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::Snapshots;
use super::relocate;
use crate::erofs::Image;
use crate::error::Error;
use crate::extract::{Attributes, Contents, ExtractError, LayerPath, set_mtime};
use crate::id::LayerId;
use crate::merged::Merged;
use crate::record::{LayerRecord, Made};
use crate::snapshotter::Usage;
use crate::stat::Stat;
use crate::store::{Form, Layer, Staging};
use crate::writer::Unpacked;

/// Overlay stacks 500 (OVL_MAX_STACK); one is left for a fix-up layer.
const MOST_LAYERS: usize = 499;

impl Snapshots {
    /// Makes an image's stack of its unpacked layers; see
    /// [`Snapshotter::finish_image`](crate::Snapshotter::finish_image).
    ///
    /// # Errors
    /// When a hard link into a lower layer leads nowhere, or a layer cannot be published.
    pub fn finish_image(&self, layers: Vec<Unpacked>) -> Result<Vec<Layer>, Error> {
        if layers.len() > MOST_LAYERS {
            return Err(Error::TooManyLayers {
                count: layers.len(),
                limit: MOST_LAYERS,
            });
        }
        let mut stack: Vec<Layer> = Vec::with_capacity(layers.len() + 1);
        for layer in layers {
            let layer = self.settle(layer, &stack)?;
            stack.push(layer);
        }
        if let Some(fix_up) = self.fix_up(&stack)? {
            stack.push(fix_up);
        }
        Ok(stack)
    }

    /// One layer on those below it.
    fn settle(&self, unpacked: Unpacked, below: &[Layer]) -> Result<Layer, Error> {
        match unpacked {
            Unpacked::Whole(layer) => {
                let Some(chain_id) = &layer.chain_id else {
                    return Ok(layer);
                };
                let record = self.store.read_record(&layer.id)?;
                if below.is_empty() || record.contents.implied.iter().all(LayerPath::is_root) {
                    return Ok(layer);
                }
                let moved = {
                    let tree = self.store.open_tree(&layer.id)?;
                    relocate::relocate(&self.store, layer.id.digest(), tree, &record, || {
                        self.roots(below)
                    })?
                };
                match moved {
                    None => Ok(layer),
                    Some((staging, made)) => {
                        staging.publish(LayerId::chain(chain_id.clone()), Some(chain_id), made)
                    }
                }
            }
            Unpacked::NeedsLowers(pending) => {
                let mut lowers = Merged::new(self.roots(below)?);
                let (staging, made, descriptor) = pending.complete(&mut lowers)?;
                let id = LayerId::chain(descriptor.chain_id.clone());
                let tree = staging.open_tree(&made)?;
                let record = LayerRecord::new(id.clone(), made);
                let roots = || self.roots(below);
                match relocate::relocate(&self.store, &descriptor.diff_id, tree, &record, roots)? {
                    Some((moved, made)) => moved.publish(id, Some(&descriptor.chain_id), made),
                    None => {
                        let made = Made {
                            contents: record.contents,
                            image: record.image,
                        };
                        staging.publish(id, Some(&descriptor.chain_id), made)
                    }
                }
            }
        }
    }

    /// The trees of layers, bottom first, as [`Merged`] wants them.
    fn roots(&self, layers: &[Layer]) -> Result<Vec<OwnedFd>, Error> {
        let ids: Vec<LayerId> = layers.iter().map(|layer| layer.id.clone()).collect();
        self.store
            .stack(&ids)?
            .iter()
            .map(|id| self.store.open_tree(id))
            .collect()
    }

    /// The layer on top that says again of a directory what lower layers say of it and a layer above them
    /// hides, because its archive has files in the directory but no entry for it.
    fn fix_up(&self, stack: &[Layer]) -> Result<Option<Layer>, Error> {
        let ids: Vec<LayerId> = stack.iter().map(|layer| layer.id.clone()).collect();
        let id = LayerId::fix_up(&ids);
        if let Some(there) = self.store.hold(&id, None) {
            return Ok(Some(there));
        }
        let visible = self.store.stack(&ids)?;
        let records: Vec<LayerRecord> = visible
            .iter()
            .map(|id| self.store.read_record(id))
            .collect::<Result<_, _>>()?;
        let merged = Merged::new(self.roots(stack)?);
        let path = || self.store.layer_path(&id);
        let fixes = find(merged, &records).map_err(Error::state("look for directories of", path()))?;
        if fixes.is_empty() {
            return Ok(None);
        }
        let staging = Staging::make(&self.store)?;
        let made = match self.store.form() {
            Form::Trees => {
                let tree = staging.make_tree()?;
                let usage = write(&tree, &fixes).map_err(Error::state("make", path()))?;
                Made::from(Contents {
                    usage,
                    ..Contents::default()
                })
            }
            Form::Images => {
                let image = Image::new(staging.make_image()?, &self.store.limits);
                write_image(image, &id, fixes).map_err(|source| Error::State {
                    action: "make",
                    path: path(),
                    source: std::io::Error::other(source),
                })?
            }
        };
        staging.publish(id, None, made).map(Some)
    }
}

/// Directories of a fix-up layer, parents first.
type Fixes = BTreeMap<LayerPath, (Attributes, rustix::fs::Timespec)>;

/// The layers of an image, and which directories they only imply.
struct Stacked<'r> {
    merged: Merged,
    implied: Vec<HashSet<&'r LayerPath>>,
    emptied: Vec<HashSet<&'r LayerPath>>,
}

impl Stacked<'_> {
    /// The topmost layer with an entry for the directory that is seen at `path`.
    fn describing(&mut self, path: &LayerPath) -> rustix::io::Result<Option<usize>> {
        let mut members = self.merged.members(path)?.to_vec();
        loop {
            if let Some(found) = members.iter().find(|layer| !self.implied[**layer].contains(path)) {
                return Ok(Some(*found));
            }
            match members.last() {
                // It hides what is in the directory below, but it is that directory.
                Some(last) if self.emptied[*last].contains(path) => {
                    members = self.merged.members_below(*last, path)?;
                }
                _ => return Ok(None),
            }
        }
    }
}

/// Finds what a fix-up layer must hold.
fn find(merged: Merged, records: &[LayerRecord]) -> rustix::io::Result<Fixes> {
    let contents = || records.iter().map(|record| &record.contents);
    let mut stacked = Stacked {
        merged,
        implied: contents()
            .map(|contents| contents.implied.iter().collect())
            .collect(),
        emptied: contents()
            .map(|contents| contents.emptied.iter().collect())
            .collect(),
    };
    let mut wanted: Vec<LayerPath> = Vec::new();
    for (layer, contents) in contents().enumerate() {
        for path in &contents.implied {
            if stacked.merged.members(path)?.first() != Some(&layer) {
                continue;
            }
            let Some(described) = stacked.describing(path)? else {
                continue;
            };
            if stacked.merged.attributes(described, path)? != stacked.merged.attributes(layer, path)? {
                wanted.push(path.clone());
            }
        }
        // Overlay lists a directory that only one layer has without looking for whiteouts in it: they
        // would be seen as names that do not exist.
        for path in &contents.whiteouts {
            if stacked.merged.members(path)?[..] == [layer] && (records.len() > 1 || !path.is_root()) {
                wanted.push(path.clone());
            }
        }
    }
    let mut fixes = Fixes::new();
    for path in wanted {
        let mut next = Some(path);
        while let Some(path) = next.filter(|path| !fixes.contains_key(path)) {
            let top = stacked.merged.members(&path)?.first().copied();
            let layer = stacked.describing(&path)?.or(top).ok_or(Errno::NOENT)?;
            let mtime = Stat::of(stacked.merged.open(layer, &path)?)?.mtime;
            fixes.insert(path.clone(), (stacked.merged.attributes(layer, &path)?, mtime));
            next = path.split().map(|(parent, _)| parent);
        }
    }
    Ok(fixes)
}

fn write_image(mut image: Image, id: &LayerId, fixes: Fixes) -> Result<Made, ExtractError> {
    for (path, (attributes, mtime)) in fixes {
        let directory = image.ensure(path.bytes(), &path, mtime)?;
        image.describe(path.bytes(), directory, attributes, mtime)?;
    }
    image.finish(id.uuid())
}

fn write(tree: &OwnedFd, fixes: &Fixes) -> rustix::io::Result<Usage> {
    let open = |path: &LayerPath| crate::store::open_directory(tree, path.as_os_str());
    for path in fixes.keys().filter(|path| !path.is_root()) {
        mkdirat(tree, path.as_os_str(), Mode::RWXU)?;
    }
    let mut usage = Usage::default();
    for (path, (attributes, mtime)) in fixes {
        let directory = open(path)?;
        attributes.write(&directory)?;
        set_mtime(&directory, *mtime)?;
        usage = usage
            + Usage {
                bytes: Stat::of(&directory)?.bytes,
                inodes: 1,
            };
    }
    Ok(usage)
}
