//! Mounts of a container: sources opened and detached by the parent, attached by the child.

mod layers;
mod options;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_sys::mount_attr::{Change, Depth, Flag, Propagation};
use coracle_types::own_mounts;
use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, open, statat, symlinkat};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::filesystem::{FsContext, Submounts, attach, clone_tree};
use crate::paths::{Root, Target};
use crate::procfs::is_procfs;
use crate::step::{At as _, Failure, Step};
pub(crate) use layers::part_of_attached;
use options::Options;

/// One mount, ready for the child.
#[derive(Debug)]
pub(crate) struct Planned {
    destination: String,
    what: What,
    read_only: bool,
}

#[derive(Debug)]
enum What {
    /// A detached tree of the host, with its flags set.
    Tree { tree: OwnedFd, target: Target },
    /// A file system that belongs to the namespaces of the child, so that the child makes it.
    FileSystem {
        kind: String,
        source: String,
        options: Options,
        label: Option<String>,
    },
    /// A directory of the root, bound over itself so that it has flags of its own.
    Volume,
    /// The container's directories of the v1 hierarchies side by side.
    Cgroups {
        trees: Vec<(String, OwnedFd)>,
        links: Vec<(String, String)>,
        change: Change<'static>,
    },
}

/// Files below /proc that a mount may replace: what lxcfs offers.
const BELOW_PROC: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
];

/// Gives the user namespace with these mappings, or the container's when there are none.
pub(crate) type Mapping<'a> = dyn FnMut(&[LinuxIdMapping], &[LinuxIdMapping]) -> Result<OwnedFd, Error> + 'a;

/// Opens and detaches every source of the specification's mounts.
///
/// # Errors
/// The mount and what is wrong with it.
pub(crate) fn plan(
    spec: &Spec,
    bundle: &Path,
    cgroup: &Cgroup,
    mapping: &mut Mapping<'_>,
) -> Result<Vec<Planned>, Error> {
    let label = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().clone());
    let label = label.filter(|label| !label.is_empty());
    let mut planned = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        planned.push(plan_one(mount, bundle, cgroup, label.as_deref(), mapping)?);
    }
    Ok(planned)
}

fn plan_one(
    mount: &Mount,
    bundle: &Path,
    cgroup: &Cgroup,
    label: Option<&str>,
    mapping: &mut Mapping<'_>,
) -> Result<Planned, Error> {
    let destination = mount
        .destination()
        .to_str()
        .filter(|path| !path.is_empty() && !path.contains('\0'));
    let destination = destination.ok_or_else(|| {
        Error::spec(
            "mounts.destination",
            mount.destination().to_string_lossy(),
            "give a path in UTF-8",
        )
    })?;
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or("");
    let read_only = options.read_only;
    let what = if kind == own_mounts::LAYERS {
        layers::plan(mount, destination, &options, mapping)?
    } else if kind == own_mounts::VOLUME {
        What::Volume
    } else if options.bind.is_some() || kind == "bind" || kind == "rbind" {
        plan_bind(mount, bundle, &options, mapping)?
    } else if kind == "cgroup" || kind == "cgroup2" {
        plan_cgroups(cgroup, &options)?
    } else if kind.is_empty() {
        return Err(Error::spec(
            "mounts.type",
            destination,
            "give a type, or `bind` among the options",
        ));
    } else if options.data.iter().any(|(key, _)| key == "tmpcopyup") {
        return Err(Error::unsupported(
            "mounts.options",
            "tmpcopyup",
            "is not offered; leave it out",
        ));
    } else {
        let source = mount
            .source()
            .as_ref()
            .map_or_else(|| kind.into(), |source| source.to_string_lossy().into_owned());
        What::FileSystem {
            kind: kind.into(),
            source,
            options,
            label: label.map(str::to_owned),
        }
    };
    Ok(Planned {
        destination: destination.to_owned(),
        what,
        read_only,
    })
}

fn plan_bind(
    mount: &Mount,
    bundle: &Path,
    options: &Options,
    mapping: &mut Mapping<'_>,
) -> Result<What, Error> {
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    if source.as_os_str().is_empty() {
        let to = mount.destination().to_string_lossy();
        return Err(Error::spec("mounts.source", to, "a bind mount needs a source"));
    }
    let path: PathBuf = bundle.join(source);
    let step = Step::MakeMounts;
    let file = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(step, || {
        format!(
            "source {} of mount {}",
            path.display(),
            mount.destination().display()
        )
    })?;
    let stat = statat(&file, c"", AtFlags::EMPTY_PATH).at(step, || path.display().to_string())?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let depth = options.bind.unwrap_or(Depth::This);
    let submounts = if depth == Depth::Tree {
        Submounts::With
    } else {
        Submounts::Without
    };
    let tree = clone_tree(file.as_fd(), submounts).at(step, || format!("bind {}", path.display()))?;

    // Nothing travels unless it was asked for; the specification of a pod's volumes says what is.
    let (propagation, over) = options.propagation.unwrap_or((Propagation::Private, Depth::Tree));
    let on = |what: &str| format!("{what} of {}", path.display());
    Change::new()
        .propagation(propagation)
        .apply(tree.as_fd(), over)
        .at(step, || on("propagation"))?;
    options
        .change
        .apply(tree.as_fd(), Depth::This)
        .at(step, || on("flags"))?;
    options
        .tree_change
        .apply(tree.as_fd(), Depth::Tree)
        .at(step, || on("recursive flags"))?;
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    if options.mapped.is_some() || !uids.is_empty() || !gids.is_empty() {
        let user_namespace = mapping(uids, gids)?;
        let over = options.mapped.unwrap_or(Depth::This);
        Change::new()
            .mapped(user_namespace.as_fd())
            .apply(tree.as_fd(), over)
            .at(step, || on("id mapping"))?;
    }
    let target = if directory {
        Target::Directory
    } else {
        Target::File
    };
    Ok(What::Tree { tree, target })
}

/// The container's own cgroup as the root of what it sees: bound from the host, which is one call a
/// hierarchy where a mount of the hierarchy would be four, and shows the same in a cgroup namespace.
fn plan_cgroups(cgroup: &Cgroup, options: &Options) -> Result<What, Error> {
    let views = cgroup.views();
    let bind = |directory: &Path| -> Result<OwnedFd, Error> {
        let step = Step::MakeMounts;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = || directory.display().to_string();
        let file = open(directory, flags, Mode::empty()).at(step, at)?;
        let tree = clone_tree(file.as_fd(), Submounts::Without).at(step, at)?;
        options
            .change
            .propagation(Propagation::Private)
            .apply(tree.as_fd(), Depth::This)
            .at(step, at)?;
        Ok(tree)
    };
    if let [only] = &views[..]
        && only.controllers.is_none()
    {
        return Ok(What::Tree {
            tree: bind(&only.directory)?,
            target: Target::Directory,
        });
    }
    let mut trees = Vec::new();
    let mut links = Vec::new();
    for view in &views {
        trees.push((view.name.clone(), bind(&view.directory)?));
        for controller in view.controllers.iter().flatten() {
            if *controller != view.name && !controller.contains('=') {
                links.push((controller.clone(), view.name.clone()));
            }
        }
    }
    Ok(What::Cgroups {
        trees,
        links,
        change: options.change,
    })
}

impl Planned {
    /// Descriptors that the child needs.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.what {
            What::Tree { tree, .. } => vec![tree.as_fd()],
            What::FileSystem { .. } | What::Volume => Vec::new(),
            What::Cgroups { trees, .. } => trees.iter().map(|(_, tree)| tree.as_fd()).collect(),
        }
    }

    /// Whether this is a file system of the container's own at `path`.
    pub(crate) fn is_own(&self, path: &str, kind: &str) -> bool {
        matches!(&self.what, What::FileSystem { kind: have, .. } if have == kind) && self.is_at(path)
    }

    /// Whether something is mounted at `path`.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        self.destination.trim_end_matches('/') == path
    }

    /// In the child: makes the mount point and attaches the mount.
    pub(crate) fn attach(&self, root: &Root) -> Result<(), Failure> {
        let step = Step::AttachMounts;
        let destination = self.destination.as_str();
        let on = || destination.to_owned();
        match &self.what {
            What::Tree { tree, target } => {
                let point = root
                    .ensure(destination, *target)
                    .map_err(|errno| Failure::new(step, errno, misfit(destination, errno)))?;
                self.refuse_below_proc(&point, *target)?;
                attach(tree.as_fd(), point.as_fd()).at(step, on)
            }
            What::Volume => {
                let point = root
                    .ensure(destination, Target::Directory)
                    .at(step, || format!("the image's volume {destination}"))?;
                self.refuse_below_proc(&point, Target::Directory)?;
                let tree = clone_tree(point.as_fd(), Submounts::Without).at(step, on)?;
                attach(tree.as_fd(), point.as_fd()).at(step, on)
            }
            What::FileSystem {
                kind,
                source,
                options,
                label,
            } => {
                let point = mount_point(root, destination, kind)?;
                self.refuse_below_proc(&point, Target::Directory)?;
                let mount = make(kind, source, options, label.as_deref())?;
                let mut change = options.change;
                if self.read_only && self.is_at("/dev") {
                    // Nodes are still to be made in it; `finish` does this.
                    change = change.clear(Flag::ReadOnly);
                }
                change.apply(mount.as_fd(), Depth::This).at(step, on)?;
                attach(mount.as_fd(), point.as_fd()).at(step, on)?;
                match options.propagation {
                    Some((propagation, depth)) => Change::new()
                        .propagation(propagation)
                        .apply(mount.as_fd(), depth)
                        .at(step, on),
                    None => Ok(()),
                }
            }
            What::Cgroups { trees, links, change } => {
                let point = mount_point(root, destination, "cgroup")?;
                attach_cgroups(&point, trees, links, *change).map_err(|mut failure| {
                    failure.detail = format!("{destination}: {}", failure.detail);
                    failure
                })
            }
        }
    }

    /// In the child, after devices were made: what had to stay writable until then.
    pub(crate) fn finish(&self, root: &Root) -> Result<(), Failure> {
        if !self.read_only || !self.is_at("/dev") || !matches!(self.what, What::FileSystem { .. }) {
            return Ok(());
        }
        let step = Step::AttachMounts;
        let point = root
            .open(&self.destination, OFlags::PATH | OFlags::CLOEXEC)
            .at(step, || "/dev")?;
        Change::new()
            .set(Flag::ReadOnly)
            .apply(point.as_fd(), Depth::This)
            .at(step, || "/dev read-only")
    }

    /// A mount on a file of procfs could make the runtime's or the kernel's own files say anything.
    fn refuse_below_proc(&self, point: &OwnedFd, target: Target) -> Result<(), Failure> {
        let step = Step::AttachMounts;
        if !is_procfs(point.as_fd()).at(step, || self.destination.clone())? {
            return Ok(());
        }
        let below = self.destination.trim_start_matches('/').strip_prefix("proc/");
        if target == Target::File && below.is_some_and(|below| BELOW_PROC.contains(&below)) {
            return Ok(());
        }
        let detail = format!(
            "{}: nothing may be mounted below /proc but {}",
            self.destination,
            BELOW_PROC.join(", ")
        );
        Err(Failure::new(step, Errno::PERM, detail))
    }
}

/// procfs and sysfs only on a directory that no link leads to: what an image has there could send them, and
/// the masks that follow, elsewhere (class CVE-2023-27561).
fn mount_point(root: &Root, destination: &str, kind: &str) -> Result<OwnedFd, Failure> {
    let step = Step::AttachMounts;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if kind == "proc" || kind == "sysfs" {
        match root.open_plain(destination, flags) {
            Err(Errno::NOENT) => {}
            result => {
                return result.at(step, || {
                    format!("{destination} must be a directory and no link for {kind}")
                });
            }
        }
    }
    root.ensure(destination, Target::Directory)
        .at(step, || format!("mount point {destination}"))
}

/// What is in the way of a volume.
fn misfit(destination: &str, errno: Errno) -> String {
    let why = match errno {
        Errno::NOTDIR => ": the image has a file there or above it, and the volume is a directory",
        Errno::ISDIR => ": the image has a directory there, and the volume is a file",
        _ => "",
    };
    format!("mount point {destination}{why}")
}

fn make(kind: &str, source: &str, options: &Options, label: Option<&str>) -> Result<OwnedFd, Failure> {
    let context = FsContext::open(kind, Step::AttachMounts)?;
    let _ = context.try_set("source", source);
    for (key, value) in &options.data {
        match value {
            Some(value) => context.set(key, value)?,
            None => context.flag(key)?,
        }
    }
    for flag in &options.superblock {
        context.flag(flag)?;
    }
    if let Some(label) = label.filter(|_| matches!(kind, "tmpfs" | "mqueue" | "devpts")) {
        context.set("context", label)?;
    }
    context.mount()
}

fn attach_cgroups(
    point: &OwnedFd,
    trees: &[(String, OwnedFd)],
    links: &[(String, String)],
    change: Change<'_>,
) -> Result<(), Failure> {
    let step = Step::AttachMounts;
    let context = FsContext::open("tmpfs", step)?;
    context.set("mode", "755")?;
    let top = context.mount()?;
    attach(top.as_fd(), point.as_fd()).at(step, || "tmpfs")?;
    for (name, tree) in trees {
        let at = || name.clone();
        mkdirat(&top, name.as_str(), Mode::from_raw_mode(0o755)).at(step, at)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = rustix::fs::openat(&top, name.as_str(), flags, Mode::empty()).at(step, at)?;
        attach(tree.as_fd(), below.as_fd()).at(step, at)?;
    }
    for (link, to) in links {
        match symlinkat(to.as_str(), &top, link.as_str()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::new(step, errno, link.as_str())),
        }
    }
    change.apply(top.as_fd(), Depth::This).at(step, || "flags")
}
