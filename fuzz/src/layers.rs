//! Layers: unpacked or refused, with nothing outside touched and nothing left behind.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use coracle_snapshot::{LayerDescriptor, Layers, Limits, Prepared, Snapshots, chain_ids};
use coracle_types::Digest;
use sha2::{Digest as _, Sha256};

/// Small, so that a bomb is one after a moment.
const LIMITS: Limits = Limits {
    stream_bytes: 1 << 20,
    entries: 1000,
    path_bytes: 4095,
    extended_header_bytes: 64 << 10,
    xattr_bytes: 4096,
    sparse_segments: 1000,
    sparse_file_bytes: 16 << 20,
    held_names_bytes: 64 << 10,
};

/// What the layers of all runs are unpacked into, and what must stay as it is beside it.
struct Place {
    snapshots: Snapshots,
    root: PathBuf,
    outside: PathBuf,
}

static PLACE: OnceLock<Place> = OnceLock::new();

fn place() -> &'static Place {
    PLACE.get_or_init(|| {
        let directory = std::env::var_os("CORACLE_FUZZ_DIRECTORY").expect("cargo xtask fuzz sets it");
        let (root, outside) = (
            Path::new(&directory).join("root"),
            Path::new(&directory).join("outside"),
        );
        std::fs::create_dir_all(outside.join("directory")).expect("ours to write");
        std::fs::write(outside.join("file"), "untouched").expect("ours to write");
        let snapshots = Snapshots::open_with(&root, LIMITS, Layers::Directories).expect("nobody else has it");
        Place {
            snapshots,
            root,
            outside,
        }
    })
}

/// Any bytes as a layer's archive.
pub(crate) fn tar(input: &[u8]) {
    unpack(input);
}

/// A line is an entry: its kind, and its name; a link's name and target stand around `>`. `@` stands for
/// the directory outside. Reaches what marks do to each other, which arbitrary archives seldom do.
pub(crate) fn whiteout(input: &[u8]) {
    let mut archive = tar::Builder::new(Vec::new());
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let Some((kind, rest)) = line.split_first() else {
            continue;
        };
        let outside = place().outside.as_os_str().as_encoded_bytes();
        let rest: Vec<u8> = rest.iter().fold(Vec::new(), |mut name, byte| {
            match byte {
                b'@' => name.extend_from_slice(outside),
                _ => name.push(*byte),
            }
            name
        });
        let mut parts = rest.splitn(2, |byte| *byte == b'>');
        let (name, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = match kind {
            b'd' => tar::EntryType::Directory,
            b's' => tar::EntryType::Symlink,
            b'h' => tar::EntryType::Link,
            b'c' => tar::EntryType::Char,
            b'p' => tar::EntryType::Fifo,
            _ => tar::EntryType::Regular,
        };
        append(&mut archive, kind, name, target);
    }
    unpack(&archive.into_inner().expect("memory takes all"));
}

/// Names as PAX records, past the checks of the `tar` crate.
fn append(archive: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &[u8], target: &[u8]) {
    let records = [("path", name), ("linkpath", target)];
    let records = records.into_iter().filter(|(_, value)| !value.is_empty());
    archive.append_pax_extensions(records).expect("memory takes all");
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_cksum();
    archive.append(&header, &[][..]).expect("memory takes all");
}

fn unpack(archive: &[u8]) {
    let place = place();
    let diff_id = Digest::from_sha256(&Sha256::digest(archive).into());
    let layer = LayerDescriptor {
        chain_id: chain_ids(std::slice::from_ref(&diff_id)).remove(0),
        diff_id,
        image: "fuzz".to_owned(),
    };
    match place.snapshots.prepare(&layer).expect("it asks nobody") {
        Prepared::Present(_) => panic!("a layer of a former run is left"),
        Prepared::Wanted(writer) => {
            if let Err(error) = writer.extract(archive) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    place
        .snapshots
        .gc(&HashSet::new())
        .expect("what was unpacked can be removed");
    for directory in ["layers", "staging"] {
        let left = std::fs::read_dir(place.root.join(directory))
            .expect("there")
            .count();
        assert_eq!(left, 0, "left in {directory}");
    }
    assert_untouched(&place.outside);
}

fn assert_untouched(outside: &Path) {
    let mut names: Vec<_> = std::fs::read_dir(outside)
        .expect("there")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["directory", "file"]);
    assert_eq!(std::fs::read(outside.join("file")).expect("there"), b"untouched");
    assert_eq!(
        std::fs::read_dir(outside.join("directory"))
            .expect("there")
            .count(),
        0
    );
}
