//! Archives made by an attacker: by the names under which others were broken by them.

use std::fs;
use std::io::Read;
use std::path::Path;

use proptest::prelude::*;

use super::{image, unpack, unpack_items, unpack_with};
use crate::extract::{Confinement, ExtractError, Extraction, extract};
use crate::limits::Limits;
use crate::testing::{Item, archive, fast_directory, pax_record, read_tree};

/// A directory with a victim beside the directory that is unpacked into.
struct Stage {
    _directory: tempfile::TempDir,
    layer: std::path::PathBuf,
    outside: std::path::PathBuf,
}

impl Stage {
    fn new() -> Self {
        let directory = fast_directory();
        let (layer, outside) = (directory.path().join("layer"), directory.path().join("outside"));
        fs::create_dir(&layer).expect("writable");
        fs::create_dir_all(outside.join("dir")).expect("writable");
        fs::set_permissions(
            outside.join("dir"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .expect("ours");
        fs::write(outside.join("victim"), "untouched").expect("writable");
        Self {
            _directory: directory,
            layer,
            outside,
        }
    }

    /// Whether unpacking changed what lies outside.
    fn is_broken_by(items: impl Fn(&Path) -> Vec<Item>, confinement: Confinement) -> bool {
        let stage = Self::new();
        let before = read_tree(&stage.outside);
        let bytes = archive(&items(&stage.outside));
        // Refused or not: what counts is that nothing outside changed.
        let _ = unpack_with(&stage.layer, &bytes, &Limits::default(), confinement);
        read_tree(&stage.outside) != before
    }
}

/// An attack must fail, and must be seen to succeed without the defence.
fn assert_defended(items: impl Fn(&Path) -> Vec<Item>) {
    assert!(
        !Stage::is_broken_by(&items, Confinement::InRoot),
        "the attack got out"
    );
    assert!(
        Stage::is_broken_by(&items, Confinement::None),
        "the attack is none: it proves nothing"
    );
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

#[test]
fn cve_2021_32760_symlink_then_write_as_root() {
    assert_defended(|outside| vec![Item::symlink("a", bytes(outside)), Item::file("a/planted", "x")]);
    assert_defended(|outside| {
        vec![
            Item::symlink("a", bytes(outside)),
            Item::symlink("b", "a"),
            Item::directory("b/dir/made", 0o777),
        ]
    });
    assert_defended(|_| vec![Item::symlink("a", "../outside"), Item::file("a/planted", "x")]);
}

#[test]
fn cve_2021_32760_chmod_through_symlink_as_root() {
    assert_defended(|outside| {
        vec![
            Item::symlink("a", bytes(&outside.join("dir"))),
            Item::directory("a", 0o777),
        ]
    });
    // A file's own name: never opened, so there is nothing to switch off.
    let items = |outside: &Path| {
        vec![
            Item::symlink("a", bytes(&outside.join("victim"))),
            Item {
                mode: 0o4777,
                ..Item::file("a", "overwritten")
            },
        ]
    };
    assert!(!Stage::is_broken_by(items, Confinement::InRoot));
}

#[test]
fn cve_2025_47290_whiteout_through_symlink_as_root() {
    assert_defended(|outside| vec![Item::symlink("a", bytes(outside)), Item::file("a/.wh.new", "")]);
    let stage = Stage::new();
    let hostile = archive(&[
        Item::symlink("a", bytes(&stage.outside)),
        Item::file("a/.wh.victim", ""),
    ]);
    unpack(&stage.layer, &hostile).expect("stays inside");
    assert!(stage.outside.join("victim").exists());
}

#[test]
fn rustsec_2026_0113_hard_link_outside_as_root() {
    assert_defended(|outside| {
        vec![
            Item::symlink("a", bytes(outside)),
            Item::hard_link("stolen", "a/victim"),
            // The link is another name of the victim: what is written through it is written there.
            Item::hard_link("a/again", "stolen"),
        ]
    });
    for target in [
        "../outside/victim",
        "a/../../outside/victim",
        "/../outside/victim",
    ] {
        let (_root, result) = unpack_items(&[Item::hard_link("stolen", target)]);
        assert!(matches!(result, Err(ExtractError::Refused { .. })), "{target}");
    }
    let (_root, result) = unpack_items(&[
        Item::directory("d", 0o755),
        Item::file("d/f", "x"),
        Item::symlink("s", "d"),
        Item::hard_link("l", "s/f"),
    ]);
    assert!(
        matches!(result, Err(ExtractError::Refused { .. })),
        "a link on the way is refused"
    );
}

#[test]
fn dots_are_refused_by_name() {
    for path in ["../x", "a/../../x", "/../x", "..", "a/.."] {
        let (_root, result) = unpack_items(&[Item::file(path, "x")]);
        let message = result.expect_err("refused").to_string();
        assert!(message.contains(path), "{message}");
    }
}

#[test]
fn as_root_absolute_names_stay_inside() {
    let (root, result) = unpack_items(&[Item::file("/etc/passwd", "x"), Item::file("//a", "y")]);
    result.expect("taken from the layer's root");
    assert!(root.path().join("etc/passwd").is_file() && root.path().join("a").is_file());
}

#[test]
fn magic_links_and_loops_are_refused() {
    let (_root, result) = unpack_items(&[
        Item::symlink("a", "b"),
        Item::symlink("b", "a"),
        Item::file("a/x", ""),
    ]);
    assert!(matches!(result, Err(ExtractError::Refused { .. })));
    let (root, result) = unpack_items(&[Item::symlink("a", "/proc/self/root/tmp"), Item::file("a/x", "")]);
    result.expect("resolves inside");
    assert!(root.path().join("proc/self/root/tmp/x").is_file());
}

/// The nested archive that a reader sees who believes the header's size of 0.
fn smuggled() -> Vec<u8> {
    let mut nested = Vec::new();
    Item::file("smuggled", "x").write(&mut nested);
    nested
}

#[test]
fn cve_2025_62518_pax_size_overrides_the_header_as_root() {
    let nested = smuggled();
    let outer = Item {
        size: Some(0),
        ..Item::file("outer", &nested)
    }
    .pax("size", nested.len().to_string());
    let (root, result) = unpack_items(&[outer, Item::file("after", "y")]);
    result.expect("one meaning: that of GNU tar and libarchive");
    assert_eq!(fs::read(root.path().join("outer")).expect("made"), nested);
    assert!(root.path().join("after").is_file());
    assert!(!root.path().join("smuggled").exists());
}

#[test]
fn cve_2025_62518_sizes_that_differ_are_refused() {
    let nested = smuggled();
    for item in [
        // Two sizes, neither of them none.
        Item {
            size: Some(512),
            ..Item::file("f", &nested)
        }
        .pax("size", nested.len().to_string()),
        Item::file("f", &nested).pax("size", "0"),
        Item::file("f", &nested).pax("size", "512").pax("size", "1024"),
        // Content of what has none: some skip it, some read it as entries.
        Item {
            data: nested.clone(),
            ..Item::directory("d", 0o755)
        },
        Item {
            data: nested.clone(),
            ..Item::symlink("s", "x")
        },
        Item {
            data: nested.clone(),
            ..Item::hard_link("h", "x")
        },
        Item::symlink("s", "x").pax("size", "1024"),
    ] {
        let (_root, result) = unpack_items(std::slice::from_ref(&item));
        assert!(
            matches!(result, Err(ExtractError::Refused { .. })),
            "{item:?}: {result:?}"
        );
    }
}

#[test]
fn rustsec_2026_0112_ambiguous_headers_are_refused() {
    let with = |header: Item| [header, Item::file("f", "x")];
    for items in [
        // A size for an extension header itself.
        with(
            Item {
                data: pax_record("path", b"a"),
                ..Item::new(b'x', "p")
            }
            .pax("size", "512"),
        ),
        with(Item {
            data: pax_record("path", b"a"),
            ..Item::new(b'g', "p")
        }),
        with(Item {
            data: pax_record("size", b"512"),
            ..Item::new(b'g', "p")
        }),
        with(Item {
            data: b"12 path=a".to_vec(),
            ..Item::new(b'x', "p")
        }),
        with(
            Item {
                data: b"a\0".to_vec(),
                ..Item::new(b'L', "././@LongLink")
            }
            .pax("path", "b"),
        ),
    ] {
        let (_root, result) = unpack_items(&items);
        assert!(
            matches!(result, Err(ExtractError::Refused { .. })),
            "{:?}: {result:?}",
            items[0]
        );
    }
}

#[test]
fn what_ends_early_or_is_no_archive_is_refused() {
    let whole = archive(&[Item::file("f", vec![1; 2000])]);
    for cut in [1, 511, 513, 1500, 2500] {
        let root = fast_directory();
        assert!(unpack(root.path(), &whole[..cut]).is_err(), "{cut}");
    }
    let root = fast_directory();
    assert!(unpack(root.path(), &[b'x'; 4096]).is_err());
    assert!(
        unpack(root.path(), b"")
            .expect("GNU tar takes it for an empty archive")
            .implied
            .len()
            == 1
    );
    let mut lone = vec![0; 512];
    lone.extend_from_slice(&whole);
    assert!(unpack(root.path(), &lone).is_err());
    let (_root, result) = unpack_items(&[Item::new(b'x', "p")]);
    assert!(result.is_err());
}

#[test]
fn types_and_marks_that_mean_nothing_are_refused() {
    for item in [
        Item::new(b's', "socket"),
        Item::new(b'M', "continued"),
        Item::new(b'D', "dump"),
        Item::file("a/.wh.", ""),
        Item::file("a/.wh..", ""),
        Item::file("a/.wh...", ""),
        Item::file(".wh.a/b", ""),
        Item::directory(".wh.a", 0o755),
        Item::file("", "root as a file"),
        Item::symlink("s", ""),
        Item::hard_link("h", "h"),
        Item::hard_link("h", "/"),
        Item::file("n", "").pax("path", b"a\0b"),
        Item::file("n", "").pax("path", [b'x'; 256]),
        Item::file("n", "").pax("uid", "4294967295"),
        Item::file("n", "").pax("gid", "99999999999"),
        Item::file("n", "").pax("uid", "-1"),
        Item::directory("d", 0o755).pax("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        Item::file("f", "").pax("SCHILY.xattr.trusted.overlay.metacopy", ""),
    ] {
        let (_root, result) = unpack_items(std::slice::from_ref(&item));
        assert!(
            matches!(result, Err(ExtractError::Refused { .. })),
            "{item:?}: {result:?}"
        );
    }
}

#[test]
fn entries_below_a_file_are_refused() {
    let (_root, result) = unpack_items(&[Item::file("a", "x"), Item::file("a/b", "y")]);
    assert!(matches!(result, Err(ExtractError::Refused { .. })));
}

#[test]
fn as_root_labels_of_the_build_machine_are_dropped() {
    let (root, result) = unpack_items(&[Item::file("f", "x")
        .pax("SCHILY.xattr.security.selinux", "u:r:t:s0")
        .pax("SCHILY.xattr.user.a", "1")]);
    result.expect("legal");
    let tree = read_tree(root.path());
    let names: Vec<&[u8]> = tree[Path::new("f")]
        .xattrs
        .iter()
        .map(|(name, _)| &name[..])
        .collect();
    assert_eq!(names, [b"user.a"]);
}

/// An endless stream of zeros after a beginning.
struct Endless<'b>(&'b [u8]);

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            buffer.fill(0);
            return Ok(buffer.len());
        }
        self.0.read(buffer)
    }
}

#[test]
fn cve_2025_58183_bombs_are_bounded() {
    let limits = Limits {
        stream_bytes: 4 << 20,
        entries: 100,
        sparse_segments: 1000,
        sparse_file_bytes: 1 << 30,
        held_names_bytes: 20_000,
        ..Limits::default()
    };
    let segments: String = (0..2000)
        .map(|at| format!("{},1\n", at * 2))
        .collect::<String>()
        .replace(',', "\n");
    let sparse_1_0 = |map: &str| {
        Item::file("f", map)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "f")
            .pax("GNU.sparse.realsize", "4000")
    };
    let map = (0..2000)
        .map(|at| format!("{at},0"))
        .collect::<Vec<_>>()
        .join(",");
    let many: Vec<Item> = (0..200).map(|at| Item::file(format!("f{at}"), "")).collect();
    let names: Vec<Item> = (0..90)
        .map(|at| Item::directory(format!("{at}").repeat(100), 0o755))
        .collect();
    for (what, items) in [
        (
            "a map of many segments",
            vec![sparse_1_0(&format!("2000\n{segments}"))],
        ),
        ("a map that promises more", vec![sparse_1_0("99999999999\n")]),
        (
            "a map in the header",
            vec![
                Item::file("f", "")
                    .pax("GNU.sparse.map", map)
                    .pax("GNU.sparse.size", "1"),
            ],
        ),
        (
            "a huge hole",
            vec![
                Item::file("f", "")
                    .pax("GNU.sparse.size", (1_u64 << 40).to_string())
                    .pax("GNU.sparse.map", ""),
            ],
        ),
        (
            "a huge extended header",
            vec![Item::file("f", "").pax("comment", vec![b'x'; 2 << 20])],
        ),
        (
            "a huge attribute",
            vec![Item::file("f", "").pax("SCHILY.xattr.user.a", vec![b'x'; 70_000])],
        ),
        ("many entries", many),
        ("many names", names),
        ("a long path", vec![Item::file(vec![b'/'; 5000], "")]),
        ("a large archive", vec![Item::file("f", vec![0; 5 << 20])]),
    ] {
        let root = fast_directory();
        let result = unpack_with(root.path(), &archive(&items), &limits, Confinement::InRoot);
        assert!(
            matches!(
                result,
                Err(ExtractError::Limit { .. } | ExtractError::Refused { .. })
            ),
            "{what}: {result:?}"
        );
    }
}

#[test]
fn cve_2025_58183_endless_streams_end() {
    let limits = Limits {
        stream_bytes: 8 << 20,
        ..Limits::default()
    };
    let entry = Item {
        size: Some(1 << 40),
        ..Item::file("f", "")
    };
    let mut begun = Vec::new();
    entry.write(&mut begun);
    for beginning in [&begun[..], &archive(&[])] {
        let root = fast_directory();
        let fd = fs::File::open(root.path()).expect("made").into();
        let result = extract(Extraction::new(fd, &limits), Endless(beginning), &limits);
        assert!(matches!(result, Err(ExtractError::Limit { .. })));
        let result = extract(image(&limits), Endless(beginning), &limits);
        assert!(matches!(result, Err(ExtractError::Limit { .. })));
    }
}

#[test]
fn a_million_tiny_files_stop_at_the_limit() {
    /// Headers of empty files without end.
    struct Files(u64, Vec<u8>);
    impl Read for Files {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1.is_empty() {
                self.0 += 1;
                Item::file(format!("{}/{}", self.0 % 10, self.0), "").write(&mut self.1);
            }
            let take = self.1.len().min(buffer.len());
            buffer[..take].copy_from_slice(&self.1[..take]);
            self.1.drain(..take);
            Ok(take)
        }
    }
    let limits = Limits {
        entries: 5000,
        ..Limits::default()
    };
    let root = fast_directory();
    let fd = fs::File::open(root.path()).expect("made").into();
    let result = extract(Extraction::new(fd, &limits), Files(0, Vec::new()), &limits);
    assert!(matches!(result, Err(ExtractError::Limit { what: "entries", .. })));
    let result = extract(image(&limits), Files(0, Vec::new()), &limits);
    assert!(matches!(result, Err(ExtractError::Limit { what: "entries", .. })));
}

#[test]
fn a_reader_that_fails_or_panics_is_told() {
    struct Broken(bool);
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0, "a reader's own fault");
            Err(std::io::Error::other("connection reset"))
        }
    }
    for panics in [false, true] {
        let root = fast_directory();
        let fd = fs::File::open(root.path()).expect("made").into();
        let result = extract(
            Extraction::new(fd, &Limits::default()),
            Broken(panics),
            &Limits::default(),
        );
        assert!(matches!(result, Err(ExtractError::Read(_))));
    }
}

fn anything() -> impl Strategy<Value = Item> {
    let flag = prop::sample::select(b"0012233456gxLKSDMV7\0Z".to_vec());
    let names = [
        "a",
        "b",
        "a/b",
        "../a",
        "/",
        "./",
        "",
        "a/..",
        ".wh.a",
        "a/.wh..wh..opq",
        ".wh..",
        "b/outside",
    ];
    let name = prop::sample::select(names.to_vec());
    let link = prop::sample::select(vec![
        "a",
        "b",
        "../outside",
        "/",
        "..",
        "a/b",
        "../../outside/victim",
    ]);
    let key = prop::sample::select(vec![
        "path",
        "linkpath",
        "size",
        "uid",
        "mtime",
        "SCHILY.xattr.user.a",
        "GNU.sparse.major",
        "GNU.sparse.minor",
        "GNU.sparse.map",
        "GNU.sparse.size",
        "GNU.sparse.offset",
        "GNU.sparse.numbytes",
        "GNU.sparse.name",
        "GNU.sparse.realsize",
    ]);
    let value = prop::sample::select(vec![
        "0",
        "1",
        "512",
        "99999999999",
        "-1",
        "a",
        "../x",
        "0,1,512,7",
        "",
    ]);
    let pax = prop::collection::vec((key, value), 0..3);
    let data = prop::collection::vec(prop::sample::select(b"01\n\0a".to_vec()), 0..1100);
    let size = prop::option::weighted(
        0.2,
        prop::sample::select(vec![0, 1, 511, 512, 513, 1 << 20, u64::MAX >> 1]),
    );
    (flag, name, link, pax, data, size).prop_map(|(flag, name, link, pax, data, size)| {
        let mut item = Item {
            link: link.into(),
            data,
            size,
            ..Item::new(flag, name)
        };
        for (key, value) in pax {
            item = item.pax(key, value);
        }
        item
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_an_archive_holds_stays_inside_as_root(
        items in prop::collection::vec(anything(), 1..12),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let stage = Stage::new();
        let before = read_tree(&stage.outside);
        let mut bytes = archive(&items);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let limits = Limits { stream_bytes: 1 << 20, sparse_file_bytes: 1 << 20, ..Limits::default() };
        let _ = unpack_with(&stage.layer, &bytes, &limits, Confinement::InRoot);
        prop_assert_eq!(read_tree(&stage.outside), before);
        let siblings = fs::read_dir(stage.layer.parent().expect("made below one")).expect("readable").count();
        prop_assert_eq!(siblings, 2);
    }
}
