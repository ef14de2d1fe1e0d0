//! Unpacking against GNU tar's, and against archives made to break out or to break down.

mod gnu_tar;
mod hostile;

use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Confinement, Contents, ExtractError, Extraction, extract};
use crate::erofs::Image;
use crate::limits::Limits;
use crate::testing::{Item, archive, fast_directory};

/// Unpacks an archive below a directory.
fn unpack(root: &Path, bytes: &[u8]) -> Result<Contents, ExtractError> {
    unpack_with(root, bytes, &Limits::default(), Confinement::InRoot)
}

fn unpack_with(
    root: &Path,
    bytes: &[u8],
    limits: &Limits,
    confinement: Confinement,
) -> Result<Contents, ExtractError> {
    let root: OwnedFd = std::fs::File::open(root).expect("made by the test").into();
    let mut extraction = Extraction::new(root, limits);
    extraction.directories.confinement = confinement;
    let result = extract(extraction, bytes, limits).and_then(|(extraction, _)| extraction.finish());
    if confinement == Confinement::InRoot {
        assert_alike(&result, &image_of(bytes, limits).map(|(contents, _)| contents));
    }
    result
}

/// An image that goes when it is closed.
fn image(limits: &Limits) -> Image {
    Image::new(tempfile::tempfile().expect("writable").into(), limits)
}

/// The same archive as an image.
fn image_of(bytes: &[u8], limits: &Limits) -> Result<(Contents, tempfile::NamedTempFile), ExtractError> {
    let file = tempfile::NamedTempFile::new().expect("writable");
    let image = Image::new(file.as_file().try_clone().expect("ours").into(), limits);
    let (image, _) = extract(image, bytes, limits)?;
    Ok((image.finish([7; 16])?.contents, file))
}

/// Both forms take and refuse the same, in the same words; but what the host's file system refuses by itself.
fn assert_alike(tree: &Result<Contents, ExtractError>, image: &Result<Contents, ExtractError>) {
    match (tree, image) {
        (Ok(tree), Ok(image)) => {
            assert_eq!(tree.implied, image.implied);
            assert_eq!(tree.emptied, image.emptied);
            assert_eq!(tree.whiteouts, image.whiteouts);
            assert_eq!(tree.opaque_root, image.opaque_root);
        }
        (Err(ExtractError::Io { .. }), _) => {}
        (Err(tree), Err(image)) => assert_eq!(tree.to_string(), image.to_string()),
        _ => panic!("unpacked {tree:?}, as an image {image:?}"),
    }
}

fn unpack_items(items: &[Item]) -> (tempfile::TempDir, Result<Contents, ExtractError>) {
    let root = fast_directory();
    let result = unpack(root.path(), &archive(items));
    (root, result)
}

#[test]
fn as_root_whiteouts_and_opaque_marks_hold_in_any_order() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (root, result) = unpack_items(&[
        Item::file("a/.wh.gone", ""),
        Item::file("b/x", "1"),
        Item::file(".wh.b", ""),
        Item::file(".wh.c", ""),
        Item::file("c/y", "2"),
        Item::directory("d", 0o700),
        Item::file("d/.wh..wh..opq", ""),
        Item::file("e", "kept"),
        Item::file(".wh.e", ""),
    ]);
    let contents = result.expect("legal");
    let gone = std::fs::metadata(root.path().join("a/gone")).expect("made");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for (name, opaque) in [("a", false), ("b", true), ("c", true), ("d", true)] {
        let directory = std::fs::File::open(root.path().join(name)).expect("made");
        assert_eq!(super::is_opaque(&directory).expect("readable"), opaque, "{name}");
    }
    assert_eq!(std::fs::read(root.path().join("e")).expect("kept"), b"kept");
    let implied: Vec<String> = contents.implied.iter().map(ToString::to_string).collect();
    assert_eq!(implied, ["", "a", "b", "c"]);
    let whiteouts: Vec<String> = contents.whiteouts.iter().map(ToString::to_string).collect();
    assert_eq!(whiteouts, ["", "a"], "the root had one until c took its place");
}

#[test]
fn as_root_usage_counts_what_stays() {
    use std::os::unix::fs::MetadataExt;
    let (root, result) = unpack_items(&[
        Item::directory("d", 0o755),
        Item::file("d/a", vec![1; 10_000]),
        Item::file("d/b", vec![2; 5000]),
        Item::hard_link("d/c", "d/b"),
        Item::file("d/a", "short"),
        Item::directory("gone", 0o755),
        Item::file("gone/x", vec![1; 9000]),
        Item::file("gone", "a file now"),
        Item::symlink("s", "d"),
    ]);
    let usage = result.expect("legal").usage;
    assert_eq!(usage.inodes, 6, "root, d, d/a, d/b with d/c, gone, s");
    let on_disk: u64 = ["", "d", "d/a", "d/b", "gone", "s"]
        .iter()
        .map(|name| {
            std::fs::symlink_metadata(root.path().join(name))
                .expect("made")
                .blocks()
                * 512
        })
        .sum();
    assert_eq!(usage.bytes, on_disk);
}

#[test]
fn as_root_parents_are_found_through_links_inside_the_layer() {
    let (root, result) = unpack_items(&[
        Item::directory("usr/lib", 0o755),
        Item::symlink("lib", "usr/lib"),
        Item::symlink("abs", "/usr/../usr/lib"),
        Item::symlink("out", "../../../../made"),
        Item::file("lib/a", "1"),
        Item::file("abs/b", "2"),
        Item::file("out/c", "3"),
    ]);
    let contents = result.expect("legal");
    for path in ["usr/lib/a", "usr/lib/b", "made/c"] {
        assert!(root.path().join(path).is_file(), "{path}");
    }
    let implied: Vec<String> = contents.implied.iter().map(ToString::to_string).collect();
    assert_eq!(implied, ["", "made", "usr"]);
}
