//! The file systems of root and state: sort, room, options.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfs, StatVfsMountFlags, statfs, statvfs};

use crate::State::{Broken, Costs, Unknown};
use crate::{Erofs, Finding, State, Subject, Topic};

/// Magic numbers of statfs(2) (linux/magic.h) and what they mean for a directory of layers.
const KINDS: [(u64, &str, State, &str); 9] = [
    (0xef53, "ext4", State::Ok, ""),
    (0x5846_5342, "xfs", State::Ok, ""),
    (0x9123_683e, "btrfs", State::Ok, ""),
    (0xf2f5_2010, "f2fs", State::Ok, ""),
    (
        0x2fc1_2fc1,
        "zfs",
        Costs,
        "overlay works on it from OpenZFS 2.2 on only",
    ),
    (
        0x0102_1994,
        "tmpfs",
        Costs,
        "images are gone after a boot and take memory",
    ),
    (
        0x794c_7630,
        "overlay",
        Broken,
        "an overlay cannot have its writable layer on another one",
    ),
    (
        0x6969,
        "nfs",
        Broken,
        "an overlay cannot have its writable layer on NFS",
    ),
    (
        0x6573_5546,
        "fuse",
        Broken,
        "most FUSE file systems cannot hold an overlay's writable layer",
    ),
];
/// The kubelet's own thresholds for eviction: 10 % of room, 5 % of inodes.
const LEAST_SPACE: f64 = 10.0;
const LEAST_INODES: f64 = 5.0;
const TMPFS: u64 = 0x0102_1994;

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let root = existing(&subject.path(&subject.root));
    let Ok(room) = statvfs(&root) else {
        let seen = format!("{} cannot be looked at", root.display());
        let unknown = finding("root", seen).but(Unknown, "this user may not enter it", "run this as root");
        return vec![unknown];
    };
    vec![
        kind(subject, &root),
        layers(subject),
        kinds_of_entries(&root),
        space(&room),
        inodes(&room),
        options(subject, &room),
        state_directory(subject),
    ]
}

/// Which form new layers have, and why it is not the fast one where it is not.
fn layers(subject: &Subject) -> Finding {
    const NAME: &str = "form of layers";
    const TREES: &str = "directories and files";
    const IMAGES: &str = "one EROFS file each";
    const COST: &str =
        "pulls and removals take several times as long, and a layer takes as many inodes as it has files";
    let remedy = "run Linux 6.12 or newer with EROFS, and keep root on a disk (ext4, xfs or btrfs)";
    let Some(configuration) = &subject.configuration else {
        return finding(NAME, "another runtime's");
    };
    match (configuration.snapshotter.as_str(), &subject.erofs) {
        ("overlay", Erofs::There) => finding(NAME, format!("{TREES}: image.snapshotter is \"overlay\"")).but(
            Costs,
            COST,
            "set image.snapshotter to \"auto\"; layers that are there stay as they are",
        ),
        ("overlay", _) => finding(NAME, TREES),
        (_, Erofs::There) => finding(NAME, IMAGES),
        (_, Erofs::NotTried) => {
            finding(NAME, "not tried").but(Unknown, "this user may not mount", "run this as root")
        }
        ("erofs", Erofs::Lacking(reason)) => finding(NAME, reason).but(
            Broken,
            "the daemon does not start: image.snapshotter is \"erofs\"",
            format!("set it to \"auto\", or {remedy}"),
        ),
        (_, Erofs::Lacking(reason)) => finding(NAME, format!("{TREES}: {reason}")).but(Costs, COST, remedy),
    }
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Storage, name, seen)
}

/// The directory, or the nearest above it that is there already.
fn existing(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|ancestor| ancestor.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn magic(path: &Path) -> Option<u64> {
    statfs(path).ok().map(|stat| stat.f_type.cast_unsigned())
}

fn kind(subject: &Subject, root: &Path) -> Finding {
    const NAME: &str = "file system of root";
    let directory = subject.root.display();
    let magic = magic(root).unwrap_or(0);
    match KINDS.iter().find(|(number, ..)| *number == magic) {
        Some((_, name, State::Ok, _)) => finding(NAME, format!("{name}, {directory}")),
        Some((_, name, state, cost)) => {
            let remedy = format!("put ext4 or xfs at {directory}, or name another root with --root");
            finding(NAME, format!("{name}, {directory}")).but(*state, *cost, remedy)
        }
        None => finding(NAME, format!("{magic:#x}, {directory}")).but(
            Unknown,
            "nobody has tried this file system",
            "ext4 and xfs are tried",
        ),
    }
}

/// Overlay needs directories that say what their entries are; old xfs does not (ftype=0).
fn kinds_of_entries(root: &Path) -> Finding {
    const NAME: &str = "kinds in directories (d_type)";
    let entry = rustix::fs::open(root, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
        .and_then(rustix::fs::Dir::new)
        .ok()
        .and_then(|directory| {
            let mut entries = directory.into_iter().flatten();
            entries.find(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        });
    match entry.map(|entry| entry.file_type()) {
        None => finding(NAME, "not tried: nothing lies there yet"),
        Some(rustix::fs::FileType::Unknown) => finding(NAME, "not there").but(
            Broken,
            "an overlay hides files that were removed wrongly",
            "make the file system anew; for xfs with -n ftype=1",
        ),
        Some(_) => finding(NAME, "there"),
    }
}

fn space(room: &StatVfs) -> Finding {
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let all = room.f_blocks.saturating_mul(room.f_frsize);
    let percent = free as f64 * 100.0 / (all as f64).max(1.0);
    let seen = format!("{} of {} free ({percent:.0}%)", gibibytes(free), gibibytes(all));
    let finding = finding("room", seen);
    let remedy = "remove images (coracle images; coracle rm IMAGE), or give it more";
    match percent {
        LEAST_SPACE.. => finding,
        1.0.. => finding.but(Costs, "the kubelet evicts pods below 10%", remedy),
        _ => finding.but(
            Broken,
            "images cannot be unpacked, containers cannot write",
            remedy,
        ),
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64)
}

fn inodes(room: &StatVfs) -> Finding {
    const NAME: &str = "inodes";
    if room.f_files == 0 {
        return finding(NAME, "made as they are needed");
    }
    let percent = room.f_favail as f64 * 100.0 / room.f_files as f64;
    finding(
        NAME,
        format!("{} of {} free ({percent:.0}%)", room.f_favail, room.f_files),
    )
    .unless(
        percent >= LEAST_INODES,
        Costs,
        "the kubelet evicts pods below 5%",
        "remove images, or make the file system with more inodes",
    )
}

fn options(subject: &Subject, room: &StatVfs) -> Finding {
    const NAME: &str = "mount options of root";
    let remedy = || format!("mount the file system of {} without it", subject.root.display());
    let flags = room.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return finding(NAME, "ro").but(Broken, "nothing can be pulled or written", remedy());
    }
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        return finding(NAME, "noexec").but(Broken, "no program of an image can be run", remedy());
    }
    if flags.contains(StatVfsMountFlags::NOSUID) {
        return finding(NAME, "nosuid").but(
            Costs,
            "set-user-ID programs of images lose their rights",
            remedy(),
        );
    }
    finding(NAME, "rw, exec, suid")
}

fn state_directory(subject: &Subject) -> Finding {
    let path = existing(&subject.path(&subject.state));
    let volatile = magic(&path) == Some(TMPFS);
    let seen = if volatile { "on tmpfs" } else { "not on tmpfs" };
    finding("state directory", format!("{}, {seen}", subject.state.display())).unless(
        volatile,
        Costs,
        "each start writes to a disk, and what a boot must clear stays",
        "name a directory on tmpfs with --state: /run/coracle",
    )
}
