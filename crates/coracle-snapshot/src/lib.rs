//! Layers, each a tree of directories or one EROFS image, and writable layers.
//!
//! Owns the unpacked layers of images and the writable layers of containers: unpacks archives that
//! anybody may have made, publishes them durably, stacks them, and frees their bytes. Knows neither
//! registries nor references, mounts nothing but its own images on their layers' directories, and never
//! lets a path of an archive reach outside the layer it belongs to.
//!
//! # On disk
//! Below the root (`/var/lib/coracle`), each directory mode 0700:
//! ```text
//! snapshots.lock                  held (flock) by the one process that has the state open
//! layers/<id>/fs/                 a layer's tree as overlay wants it: whiteouts are devices 0:0,
//!                                 opaque directories bear trusted.overlay.opaque
//! layers/<id>/layer.erofs         or all of it as an image (`erofs`), mounted on `fs` when it is first used
//! layers/<id>/layer.json          its full id, usage, implied directories, directories with whiteouts
//! writable/<container>/upper/     what a container changed
//! writable/<container>/work/      overlay's own
//! writable/<container>/lowers.json    the layers below
//! writable/<container>/volumes.json   layers of images that are mounted in the container besides
//! staging/<random>/               layers and writable layers being made
//! staging/gone-*, writable-*, broken-*    what is being removed
//! staging/worn-*                  damaged layers on which containers run; gone with the last of them
//! empty/                          the lower directory of an image without layers
//! ```
//! A layer's directory name is a letter (`d` diff ID, `c` chain ID, `f` fix-up, `a` artifact) and 125 bits of
//! its digest in base 32: short, so that many fit into a page of mount options; `layer.json` holds the whole
//! id and is compared.
//!
//! # Who writes, and locks
//! One process ([`Snapshots::open`] fails while another has the lock). Inside it, each layer being
//! unpacked has a staging directory of its own, so unpacking takes no lock. `publishing` is taken for
//! changes of `layers/`, then `index` for what is remembered of them; neither is held over slow work, but
//! `publishing` is over one fsync. Published layers are never changed.
//!
//! # What survives a crash
//! A layer is published by: its tree and `layer.json` in staging, syncfs (an image: fdatasync of both files,
//! fsync of their directory), rename into `layers/`, fsync of `layers/`. A power cut at any point leaves it whole or in staging, and a thread empties staging after the
//! next start. A layer whose record is missing, of another version or of another id is removed then, an image
//! of another length or with another first block, too; the owner
//! of the image finds it missing and pulls it. Removal renames into staging first, so a layer or writable
//! layer is never half there under its own name. Writable layers are not synced: after a power loss what
//! containers wrote is as the file system left it, and no container lives to see it. Views need nothing:
//! they are detached mounts that end with their descriptors. Mounts of images outlive the daemon and are
//! found again; its orderly end takes away those that no container's root lies on.
//!
//! # How an archive is unpacked
//! `archive` reads headers strictly and refuses what readers disagree about. `extract` resolves every
//! parent by openat2(2) from the layer's root and never opens a last name that it did not make; `erofs` has
//! the same rules on a tree of names in memory, and touches no path of the host at all. Layers are
//! keyed by diff ID and unpack in any order and in parallel; what depends on the layers below is put right
//! when an image is finished: hard links into them are filled in, files that a symbolic link of theirs
//! leads elsewhere are moved there, and a fix-up layer restores what implied directories would hide.
//!
//! Two things differ from applying layers one after the other, on purpose: a character device 0:0 in an
//! archive is a whiteout, since overlay can take it for nothing else; and extended attributes in the
//! `trusted.overlay` namespace are refused, those of `security` other than capabilities are dropped.

mod archive;
mod durable;
mod erofs;
mod error;
mod extract;
mod id;
mod limits;
mod merged;
mod record;
mod snapshots;
mod snapshotter;
mod stat;
mod store;
#[cfg(test)]
mod testing;
mod walk;
mod writer;

pub use erofs::can_mount_images;
pub use error::Error;
pub use extract::ExtractError;
pub use id::{LayerId, chain_ids};
pub use limits::Limits;
pub use snapshots::Snapshots;
pub use snapshotter::{
    Capacity, LayerDescriptor, LayerStream, Layers, Prepared, Snapshotter, Usage, Writable,
};
pub use store::Layer;
pub use writer::{LayerWriter, PendingLayer, Unpacked};
