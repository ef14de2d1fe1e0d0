//! Layers as EROFS images: one file each, written once from start to end while the archive streams.
//!
//! ```text
//! block 0     superblock at 1024, the root's inode at 1280
//! then        the content of files in whole blocks, in the archive's order, and between it regions of
//!             inodes, each followed by its attributes and by the last piece of its content
//! at the end  lists of names that do not fit behind their inodes, then the inodes of directories
//! ```
//! An EROFS inode is named by its place in the file, so nothing is written twice but the numbers of links of
//! files with several names, and nothing of a file stays in memory but its name. What a later entry replaces
//! is dead bytes of the image.

mod complete;
mod finish;
mod format;
mod image;
mod lists;
mod mount;
mod output;
mod tree;
mod unpack;

pub(crate) use format::MAGIC;
pub(crate) use image::Image;
pub use mount::can_mount_images;
pub(crate) use mount::{attach, check, detached, is_mountable, is_mounted, probe, unmount};

#[cfg(test)]
mod tests;
