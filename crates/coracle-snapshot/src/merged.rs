//! The merged tree of layers without a mount: which layer shows what at a path, by overlay's rules.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, openat2};
use rustix::io::{Errno, Result};

use crate::extract::{Attributes, LayerPath, inside, is_opaque};
use crate::stat::Stat;

/// Layers' root directories, topmost first, with what was found out so far.
pub(crate) struct Merged {
    roots: Vec<OwnedFd>,
    /// Of a directory: the layers that are merged in it, topmost first.
    members: HashMap<LayerPath, Rc<[usize]>>,
}

impl Merged {
    /// Of layers that reach down to the first whose root is opaque, if one is: the caller cuts there.
    pub(crate) fn new(roots: Vec<OwnedFd>) -> Self {
        let all: Rc<[usize]> = (0..roots.len()).collect();
        Self {
            roots,
            members: HashMap::from([(LayerPath::root(), all)]),
        }
    }

    /// The layers merged in the directory at `path`, topmost first; none if there is no directory.
    pub(crate) fn members(&mut self, path: &LayerPath) -> Result<Rc<[usize]>> {
        let mut missing = Vec::new();
        let mut at = path.clone();
        let mut above = loop {
            if let Some(known) = self.members.get(&at) {
                break Rc::clone(known);
            }
            let (parent, _) = at.split().expect("the root is always known");
            missing.push(std::mem::replace(&mut at, parent));
        };
        while let Some(next) = missing.pop() {
            let here = self.merge(&above, &next)?;
            above = here.into();
            self.members.insert(next, Rc::clone(&above));
        }
        Ok(above)
    }

    /// The layers below `layer` that would be merged in the directory at `path` if `layer` did not hide
    /// them there.
    pub(crate) fn members_below(&mut self, layer: usize, path: &LayerPath) -> Result<Vec<usize>> {
        let Some((parent, _)) = path.split() else {
            return Ok(Vec::new());
        };
        let above = self.members(&parent)?;
        let below: Vec<usize> = above.iter().copied().filter(|other| *other > layer).collect();
        self.merge(&below, path)
    }

    /// Of layers that are merged in a directory, those merged in one inside it.
    fn merge(&self, layers: &[usize], path: &LayerPath) -> Result<Vec<usize>> {
        let mut members = Vec::new();
        for layer in layers.iter().copied() {
            match self.open(layer, path) {
                Ok(directory) => {
                    members.push(layer);
                    if is_opaque(&directory)? {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // A file or a whiteout hides whatever is below it.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(members)
    }

    /// What is seen at `path`, and of which layer; symbolic links on the way are not followed.
    pub(crate) fn find(&mut self, path: &LayerPath) -> Result<Option<(usize, Stat)>> {
        let layers = match path.split() {
            Some((parent, _)) => self.members(&parent)?,
            None => self.members(path)?,
        };
        for layer in layers.iter().copied() {
            match self.stat(layer, path) {
                Ok(found) => return Ok((!found.is_whiteout()).then_some((layer, found))),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }

    /// What a layer itself has at `path`; the directory above must be one of its members.
    pub(crate) fn stat(&self, layer: usize, path: &LayerPath) -> Result<Stat> {
        Stat::at(&self.roots[layer], path.as_os_str())
    }

    /// A layer's own directory at `path`.
    pub(crate) fn open(&self, layer: usize, path: &LayerPath) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(
            &self.roots[layer],
            path.as_os_str(),
            flags,
            Mode::empty(),
            inside(),
        )
    }

    /// Attributes of a layer's own directory at `path`.
    pub(crate) fn attributes(&self, layer: usize, path: &LayerPath) -> Result<Attributes> {
        Attributes::read(self.open(layer, path)?)
    }
}
