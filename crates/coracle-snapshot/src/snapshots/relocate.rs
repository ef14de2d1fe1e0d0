//! Lays a layer out anew where a directory that it only implies is a symbolic link in a lower layer.
//!
//! A layer with `lib/x` and no entry for `lib`, on a layer where `lib` leads to `usr/lib`, means
//! `usr/lib/x`: applied in order, its file goes through the link. Unpacked alone it has a directory `lib`,
//! which would hide the link and with it the whole system's libraries. Its files move to where they were
//! meant, in a layer keyed by chain ID: as further names of the same inodes, or copied to another image.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use coracle_types::Digest;
use rustix::fs::{AtFlags, Dir, linkat, readlinkat};
use rustix::io::Errno;

use crate::erofs::Image;
use crate::error::Error;
use crate::extract::{
    Ahead, Attributes, Directories, Directory, ExtractError, LayerPath, Start, TooManyLinks, Way, is_opaque,
    mark_opaque,
};
use crate::merged::Merged;
use crate::record::{LayerRecord, Made};
use crate::stat::Stat;
use crate::store::{Staging, Store, open_directory};

/// Gives the new layout, or nothing if the layer can stay as it is. `lowers` opens the layers below.
pub(super) fn relocate(
    store: &Arc<Store>,
    diff_id: &Digest,
    tree: OwnedFd,
    record: &LayerRecord,
    lowers: impl Fn() -> Result<Vec<OwnedFd>, Error>,
) -> Result<Option<(Staging, Made)>, Error> {
    let path = || store.layer_path(&record.id);
    let mut with_layer = vec![tree.try_clone().map_err(|source| Error::State {
        action: "open",
        path: path(),
        source,
    })?];
    with_layer.extend(lowers()?);
    let mut all = Merged::new(with_layer);
    let meets = meets_links(&mut all, record).map_err(Error::state("compare with lower layers", path()))?;
    if record.contents.opaque_root || !meets {
        return Ok(None);
    }
    let staging = Staging::make(store)?;
    let out = match record.image {
        None => Out::Tree(Directories::new(staging.make_tree()?, &store.limits)),
        Some(_) => Out::Image {
            image: Box::new(Image::new(staging.make_image()?, &store.limits)),
            copied: HashMap::new(),
        },
    };
    let mut moving = Moving {
        diff_id,
        tree,
        lowers: Merged::new(lowers()?),
        implied: record.contents.implied.iter().collect(),
        emptied: record.contents.emptied.iter().collect(),
        out,
    };
    moving.run()?;
    let made = match moving.out {
        Out::Tree(directories) => directories.finish().map(Made::from),
        Out::Image { image, .. } => image.finish(record.id.uuid()),
    };
    let made = made.map_err(|source| Error::Extract {
        diff_id: diff_id.clone(),
        source,
    })?;
    Ok(Some((staging, made)))
}

/// Whether a lower layer shows a symbolic link where the layer implies a directory.
fn meets_links(all: &mut Merged, record: &LayerRecord) -> rustix::io::Result<bool> {
    for path in &record.contents.implied {
        let Some((parent, _)) = path.split() else { continue };
        if all.members(path)?[..] == [0] && is_opaque(all.open(0, path)?)? {
            continue;
        }
        let members = all.members(&parent)?;
        // The layer itself is the first; those after it are what it does not hide.
        for layer in members.iter().skip(1).copied() {
            match all.stat(layer, path) {
                Ok(found) if found.kind.is_symlink() => return Ok(true),
                Ok(_) => break,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(false)
}

struct Moving<'r> {
    diff_id: &'r Digest,
    tree: OwnedFd,
    lowers: Merged,
    implied: HashSet<&'r LayerPath>,
    emptied: HashSet<&'r LayerPath>,
    out: Out,
}

/// A directory of the layer and where it goes.
struct Step {
    from: LayerPath,
    to: LayerPath,
    /// An opaque directory is above: lower layers do not show.
    alone: bool,
}

impl Moving<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let root = Step {
            from: LayerPath::root(),
            to: LayerPath::root(),
            alone: false,
        };
        let mut ahead = vec![root];
        while let Some(step) = ahead.pop() {
            let entry = step.from.clone();
            self.directory(step, &mut ahead)
                .map_err(|failure| match failure {
                    Failure::Ambiguous(entry) => Error::AmbiguousLink {
                        diff_id: self.diff_id.clone(),
                        entry: entry.to_string(),
                    },
                    Failure::Extract(source) => Error::Extract {
                        diff_id: self.diff_id.clone(),
                        source,
                    },
                    Failure::Io(errno) => Error::Extract {
                        diff_id: self.diff_id.clone(),
                        source: ExtractError::io(entry.bytes(), "move it through a symbolic link")(errno),
                    },
                })?;
        }
        Ok(())
    }

    fn directory(&mut self, step: Step, ahead: &mut Vec<Step>) -> Result<(), Failure> {
        let from = open_directory(&self.tree, step.from.as_os_str())?;
        let stat = Stat::of(&from)?;
        let implied = self.implied.contains(&step.from);
        let mut to = step.to;
        let opaque = is_opaque(&from)?;
        if implied && !opaque && !step.alone && self.is_link_below(&to)? {
            to = self.resolve(&to)?;
        }
        let place = self
            .out
            .ensure(step.from.bytes(), &to, stat.mtime)
            .map_err(|error| match error {
                // A file of this layer is where the directory was to go.
                ExtractError::Refused { .. } => Failure::Ambiguous(step.from.clone()),
                other => Failure::Extract(other),
            })?;
        if self.out.path(&place) != to {
            return Err(Failure::Ambiguous(step.from));
        }
        if !implied {
            let attributes = Attributes::read(&from)?;
            self.out
                .describe(step.from.bytes(), &place, attributes, stat.mtime)?;
        }
        if opaque {
            self.out.mark_opaque(&place, self.emptied.contains(&step.from))?;
        }
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let found = Stat::at(&from, OsStr::from_bytes(name))?;
            if found.is_directory() {
                ahead.push(Step {
                    from: step.from.join(name),
                    to: to.join(name),
                    alone: step.alone || opaque,
                });
                continue;
            }
            if !self.out.take((&from, name), &found, &place)? {
                return Err(Failure::Ambiguous(step.from.join(name)));
            }
        }
        Ok(())
    }

    fn is_link_below(&mut self, path: &LayerPath) -> rustix::io::Result<bool> {
        Ok(self
            .lowers
            .find(path)?
            .is_some_and(|(_, found)| found.kind.is_symlink()))
    }

    /// Where a path leads in the layers below, with their root as `/`; what does not exist there is taken
    /// as written.
    fn resolve(&mut self, path: &LayerPath) -> Result<LayerPath, Failure> {
        let (mut ahead, mut at) = (Ahead::of(path), LayerPath::root());
        while let Some(step) = ahead.next() {
            let Way::Into(name) = step else {
                at = at.split().map(|(parent, _)| parent).unwrap_or_default();
                continue;
            };
            let next = at.join(&name);
            let Some((layer, found)) = self.lowers.find(&next)? else {
                at = next;
                continue;
            };
            if !found.kind.is_symlink() {
                at = next;
                continue;
            }
            let parent = self.lowers.open(layer, &at)?;
            let target = readlinkat(&parent, OsStr::from_bytes(&name), Vec::new())?;
            let start = ahead.follow(target.as_bytes()).map_err(|TooManyLinks| {
                let reason = "a symbolic link of a lower layer on its path leads in a circle";
                Failure::Extract(ExtractError::refused(path.bytes(), reason))
            })?;
            if start == Start::Root {
                at = LayerPath::root();
            }
        }
        Ok(at)
    }
}

/// What the layer is laid out in.
enum Out {
    Tree(Directories),
    Image {
        image: Box<Image>,
        /// Files with several names, by their identity in the old image.
        copied: HashMap<(u32, u32, u64), u32>,
    },
}

/// A directory of [`Out`].
enum Place {
    Tree(Arc<Directory>),
    Image(u32),
}

impl Out {
    fn ensure(
        &mut self,
        entry: &[u8],
        path: &LayerPath,
        mtime: rustix::fs::Timespec,
    ) -> Result<Place, ExtractError> {
        match self {
            Self::Tree(directories) => directories.ensure(entry, path, mtime).map(Place::Tree),
            Self::Image { image, .. } => image.ensure(entry, path, mtime).map(Place::Image),
        }
    }

    fn path(&self, place: &Place) -> LayerPath {
        match (self, place) {
            (_, Place::Tree(directory)) => directory.path.clone(),
            (Self::Image { image, .. }, Place::Image(node)) => image.path(*node),
            (Self::Tree(_), Place::Image(_)) => LayerPath::root(),
        }
    }

    fn describe(
        &mut self,
        entry: &[u8],
        place: &Place,
        mut attributes: Attributes,
        mtime: rustix::fs::Timespec,
    ) -> Result<(), Failure> {
        match (self, place) {
            (Self::Tree(directories), Place::Tree(directory)) => {
                let default_acl = attributes.take_default_acl();
                attributes.write(&directory.fd)?;
                directories
                    .described(entry, &directory.path, mtime, default_acl)
                    .map_err(Failure::Extract)
            }
            (Self::Image { image, .. }, Place::Image(node)) => image
                .describe(entry, *node, attributes, mtime)
                .map_err(Failure::Extract),
            _ => Err(Failure::Io(Errno::INVAL)),
        }
    }

    fn mark_opaque(&mut self, place: &Place, emptied: bool) -> Result<(), Failure> {
        match (self, place) {
            (Self::Tree(directories), Place::Tree(directory)) => {
                mark_opaque(&directory.fd)?;
                directories.is_emptied(&directory.path, emptied);
            }
            (Self::Image { image, .. }, Place::Image(node)) => image.mark_opaque(*node, emptied),
            _ => return Err(Failure::Io(Errno::INVAL)),
        }
        Ok(())
    }

    /// Takes a file over; false if something has its name there.
    fn take(&mut self, (from, name): (&OwnedFd, &[u8]), found: &Stat, to: &Place) -> Result<bool, Failure> {
        match (self, to) {
            (Self::Tree(directories), Place::Tree(directory)) => {
                let os_name = OsStr::from_bytes(name);
                match linkat(from, os_name, &directory.fd, os_name, AtFlags::empty()) {
                    Err(Errno::EXIST) => return Ok(false),
                    other => other?,
                }
                if found.is_whiteout() {
                    directories.has_whiteout(&directory.path);
                }
                directories.count(found);
                Ok(true)
            }
            (Self::Image { image, copied }, Place::Image(node)) => image
                .copy_to((from, name), found, *node, copied)
                .map_err(Failure::Extract),
            _ => Err(Failure::Io(Errno::INVAL)),
        }
    }
}

enum Failure {
    Ambiguous(LayerPath),
    Extract(ExtractError),
    Io(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Io(errno)
    }
}
