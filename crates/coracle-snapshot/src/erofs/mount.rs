//! Mounts of images: from the file itself (Linux 6.12), without a loop device.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fgetxattr, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount as unmount_path,
};

use super::format::{self, BLOCK};
use super::{Image, MAGIC};
use crate::extract::{Attributes, LayerPath, OPAQUE};
use crate::limits::Limits;
use crate::record::ImageFile;

/// Mounts an open image, attached nowhere. Two mounts of one image share no memory: take one and clone it.
///
/// # Errors
/// The step that failed. ENOTBLK means that the kernel or the file system with the image cannot do this.
pub(crate) fn detached(image: BorrowedFd<'_>) -> Result<OwnedFd, (Errno, &'static str)> {
    let at = |step| move |errno| (errno, step);
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen erofs"))?;
    let source = format!("/proc/self/fd/{}", image.as_raw_fd());
    fsconfig_set_string(&context, "source", source).map_err(at("source"))?;
    fsconfig_set_flag(&context, "ro").map_err(at("ro"))?;
    fsconfig_create(&context).map_err(at("mount the image"))?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(at("fsmount"))
}

/// Whether this kernel and the file system of an image can mount it at all; any other failure is of the moment.
pub(crate) fn is_mountable(image: BorrowedFd<'_>) -> bool {
    !matches!(detached(image), Err((Errno::NODEV | Errno::NOTBLK, _)))
}

/// Attaches a detached mount to a directory.
pub(crate) fn attach(mount: &OwnedFd, directory: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", directory, c"", flags)
}

/// Whether an image is mounted at a directory that was opened by its path.
pub(crate) fn is_mounted(directory: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(fstatfs(directory)?.f_type as u32 == MAGIC)
}

/// Takes the mount off a directory; nothing mounted there, or no directory, is no error. Who has a file
/// of it open keeps it.
pub(crate) fn unmount(directory: &Path) -> rustix::io::Result<()> {
    match unmount_path(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(()),
        other => other,
    }
}

/// Whether a file is an image as it was when its layer was published, by its length, the time of its last
/// change, and its first block.
pub(crate) fn check(file: &OwnedFd, recorded: &ImageFile) -> std::io::Result<()> {
    let file = std::fs::File::from(file.try_clone()?);
    let metadata = file.metadata()?;
    let length = metadata.len();
    if length != recorded.bytes {
        let message = format!("its image has {length} bytes, not {}", recorded.bytes);
        return Err(std::io::Error::other(message));
    }
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    if recorded.modified.is_some_and(|recorded| recorded != modified) {
        return Err(std::io::Error::other("its image was changed"));
    }
    let mut first = [0; BLOCK as usize];
    file.read_exact_at(&mut first, 0)?;
    if format::checked(&first) == Some(recorded.checksum) {
        Ok(())
    } else {
        Err(std::io::Error::other("its image's first block is damaged"))
    }
}

/// Whether layers can be images below a state directory at `place`: tried there. Leaves nothing.
///
/// # Errors
/// What this node lacks, in words.
pub fn can_mount_images(place: &Path) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(rustix::fs::CWD, place, flags, Mode::empty())
        .map_err(|errno| format!("{} cannot be opened: {errno}", place.display()))?;
    probe(directory)
}

/// Whether images that lie in a directory can be mounted and their attributes read: makes one and looks.
///
/// # Errors
/// What the kernel lacks, in words.
pub(crate) fn probe(directory: impl AsFd) -> Result<(), String> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = openat(directory, c".", flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| format!("no file without a name can be made there: {errno}"))?;
    let copy = file.try_clone().map_err(|error| error.to_string())?;
    try_one(copy).map_err(|error| format!("an image cannot be written: {error}"))?;
    let mount = detached(file.as_fd()).map_err(|(errno, step)| match (errno, step) {
        (Errno::NODEV, _) => "this kernel has no EROFS".to_owned(),
        (Errno::NOTBLK, _) => {
            "the kernel mounts EROFS from no file on this file system (needs Linux 6.12, and no tmpfs)"
                .to_owned()
        }
        (errno, step) => format!("{step}: {errno}"),
    })?;
    let path = format!("/proc/self/fd/{}/d", mount.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = openat(rustix::fs::CWD, path, flags, Mode::empty())
        .map_err(|errno| format!("a directory of an image cannot be opened: {errno}"))?;
    let mut value = [0; 4];
    match fgetxattr(&inside, OPAQUE, &mut value[..]) {
        Ok(1) => Ok(()),
        Ok(_) => Err("an attribute of an image reads wrong".to_owned()),
        Err(errno) => Err(format!(
            "attributes of an image cannot be read (CONFIG_EROFS_FS_XATTR): {errno}"
        )),
    }
}

fn try_one(file: OwnedFd) -> Result<(), crate::extract::ExtractError> {
    let mut image = Image::new(file, &Limits::default());
    let time = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let directory = image.ensure(b"d", &LayerPath::root().join(b"d"), time)?;
    let attributes = Attributes {
        mode: 0o755,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
    };
    image.describe(b"d", directory, attributes, time)?;
    image.mark_opaque(directory, false);
    image.finish([1; 16]).map(drop)
}
