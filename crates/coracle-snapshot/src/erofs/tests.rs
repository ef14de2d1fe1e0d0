//! What images alone have: layouts at their edges, sparse files, and damage that is found.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use super::{Image, check, detached};
use crate::extract::{ExtractError, extract};
use crate::limits::Limits;
use crate::record::{ImageFile, Made};
use crate::testing::{Item, Tree, archive, read_tree};

/// Makes an image of an archive.
fn image_of(bytes: &[u8]) -> Result<(Made, fs::File), ExtractError> {
    let file = tempfile::tempfile().expect("writable");
    let limits = Limits::default();
    let image = Image::new(file.try_clone().expect("ours").into(), &limits);
    let (image, _) = extract(image, bytes, &limits)?;
    Ok((image.finish([9; 16])?, file))
}

/// As the kernel shows it, after erofs-utils found nothing wrong; none before Linux 6.12.
fn read_back(file: &fs::File) -> Option<Tree> {
    let output = Command::new("fsck.erofs")
        .arg("--extract")
        .arg(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
        .output()
        .expect("erofs-utils is installed");
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    let mount = detached(file.as_fd()).ok()?;
    Some(read_tree(Path::new(&format!(
        "/proc/self/fd/{}",
        mount.as_raw_fd()
    ))))
}

#[test]
fn contents_and_lists_of_every_length_read_back_as_root() {
    let lengths = [
        0, 1, 63, 2047, 2048, 2049, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 300_000, 600_001,
    ];
    let mut items: Vec<Item> = lengths
        .iter()
        .map(|length| {
            let data: Vec<u8> = (0..*length).map(|at| (at * 7 + length) as u8).collect();
            Item::file(format!("f{length}"), data)
        })
        .collect();
    // Names before and after the directory's own two, and enough of them for several blocks.
    items.extend(["-", "!a", "..a", ".a", "/"].map(|name| Item::file(format!("odd/{name}x"), "")));
    for number in 0..700 {
        items.push(Item::file(
            format!("many/{}-{number}", "n".repeat(number % 200)),
            "x",
        ));
    }
    items.push(Item::symlink("link", "t".repeat(4095)));
    items.push(Item::symlink("short", "t"));
    let large = vec![b'v'; 60_000];
    items.push(Item::file("attributes", "some").pax("SCHILY.xattr.user.large", &large));
    items.push(Item::directory("described", 0o700).pax("SCHILY.xattr.user.large", &large));
    items.push(Item::file("after", "the end"));
    let (made, file) = image_of(&archive(&items)).expect("legal");
    assert_eq!(made.contents.usage.inodes, 1);
    assert_eq!(
        made.contents.usage.bytes,
        file.metadata().expect("open").blocks() * 512
    );
    let Some(tree) = read_back(&file) else { return };
    for item in items.iter().filter(|item| item.flag == b'0') {
        let path = String::from_utf8_lossy(&item.path).replace("//", "/");
        assert_eq!(tree[Path::new(&path)].content, item.data, "{path}");
    }
    assert_eq!(tree[Path::new("link")].content, "t".repeat(4095).as_bytes());
    for name in ["attributes", "described"] {
        assert_eq!(
            tree[Path::new(name)].xattrs,
            [(b"user.large".to_vec(), large.clone())],
            "{name}"
        );
    }
}

#[test]
fn what_was_replaced_is_gone_and_links_are_counted_as_root() {
    let items = [
        Item::file("d/a", "1"),
        Item::hard_link("d/b", "d/a"),
        Item::hard_link("c", "d/b"),
        Item::file("d", "no directory any more"),
        Item::hard_link("e", "c"),
        Item::file(".wh.gone", ""),
        Item::file("x/.wh.gone", ""),
    ];
    let (_, file) = image_of(&archive(&items)).expect("legal");
    let Ok(mount) = detached(file.as_fd()) else { return };
    let at = |name: &str| fs::symlink_metadata(format!("/proc/self/fd/{}/{name}", mount.as_raw_fd()));
    assert_eq!(
        (at("c").expect("made").nlink(), at("d").expect("made").nlink()),
        (2, 1)
    );
    assert_eq!(at("c").expect("made").ino(), at("e").expect("made").ino());
    assert_eq!(at("gone").expect("made").nlink(), 2, "whiteouts share an inode");
    assert_eq!(at(".").expect("made").nlink(), 3);
}

/// A sparse file of PAX form 0.1.
fn sparse(size: u64, segments: &[(u64, &[u8])]) -> Item {
    let map: Vec<String> = segments
        .iter()
        .map(|(offset, data)| format!("{offset},{}", data.len()))
        .collect();
    let data: Vec<u8> = segments.iter().flat_map(|(_, data)| data.to_vec()).collect();
    Item::file("sparse", data)
        .pax("GNU.sparse.size", size.to_string())
        .pax("GNU.sparse.numblocks", segments.len().to_string())
        .pax("GNU.sparse.map", map.join(","))
}

#[test]
fn holes_take_no_room_and_scattered_data_is_bounded_as_root() {
    let block = [b'x'; 512];
    let segments: Vec<(u64, &[u8])> = vec![
        (0, &block[..]),
        (1 << 20, &block[..]),
        ((1 << 20) + 4096, &block[..]),
        (300 << 30, &b"the end"[..]),
    ];
    let size = (300 << 30) + 7;
    let (_, file) = image_of(&archive(&[sparse(size, &segments)])).expect("legal");
    assert!(file.metadata().expect("open").len() < 4 << 20);
    if let Ok(mount) = detached(file.as_fd()) {
        let path = format!("/proc/self/fd/{}/sparse", mount.as_raw_fd());
        let sparse = fs::File::open(path).expect("made");
        assert_eq!(sparse.metadata().expect("open").len(), size);
        for (offset, data) in segments {
            let mut found = vec![0; data.len()];
            sparse.read_exact_at(&mut found, offset).expect("there");
            assert_eq!(found, data, "at {offset}");
        }
        let mut hole = [1; 4096];
        sparse.read_exact_at(&mut hole, 100 << 30).expect("there");
        assert!(hole.iter().all(|byte| *byte == 0));
    }
    // A terabyte with a little of everything everywhere: the map or the zeros would fill the disk.
    let scattered: Vec<(u64, &[u8])> = (0..100_000).map(|at| (at * (8 << 20), &block[..])).collect();
    let refused = image_of(&archive(&[sparse(1 << 40, &scattered)])).expect_err("refused");
    assert!(matches!(refused, ExtractError::Limit { .. }), "{refused}");
}

#[test]
fn damage_of_length_time_or_first_block_is_found() {
    let (made, file) = image_of(&archive(&[Item::file("a", vec![1; 9000])])).expect("legal");
    let recorded = made.image.expect("an image");
    let any_time = ImageFile {
        modified: None,
        ..recorded
    };
    let check = |recorded: &ImageFile| {
        let file: OwnedFd = file.try_clone().expect("ours").into();
        check(&file, recorded)
    };
    check(&recorded).expect("whole");
    let other = ImageFile {
        checksum: recorded.checksum ^ 1,
        ..recorded
    };
    check(&other).expect_err("another image");
    file.write_all_at(b"x", 2000).expect("ours");
    check(&any_time).expect_err("damaged");
    file.write_all_at(&[0], 2000).expect("ours");
    check(&any_time).expect("whole again");
    check(&recorded).expect_err("written to");
    file.set_len(recorded.bytes - 4096).expect("ours");
    check(&any_time).expect_err("short");
}

#[test]
fn a_million_names_stay_below_the_bound() {
    let limits = Limits {
        held_names_bytes: 64 << 20,
        ..Limits::default()
    };
    let mut tree = super::tree::Tree::new(&limits);
    let kind = super::tree::Kind::File(super::format::FileKind::Regular);
    for number in 0..1_000_000_u32 {
        let name = format!("libthing-{number}.so");
        tree.insert(b"", (super::tree::ROOT, name.as_bytes()), kind, number, None)
            .expect("a million names fit into 64 MiB");
    }
}
