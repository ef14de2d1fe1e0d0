//! What is built can be read back by others.

use std::io::Read;
use std::process::Command;

use super::*;

#[test]
fn layers_are_compressed_as_asked_and_keep_their_diff_id() {
    let tar = Layer::new().file("/a", 0o644, vec![7_u8; 5000]).build();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let image = ImageBuilder::new().layer(tar.clone(), compression).build();
        let blob = &image.blobs()[0];
        let mut plain = Vec::new();
        match compression {
            Compression::None => plain.extend_from_slice(&blob.content),
            Compression::Gzip => {
                flate2::read::GzDecoder::new(blob.content.as_ref())
                    .read_to_end(&mut plain)
                    .unwrap();
            }
            Compression::Zstd => plain = zstd::decode_all(blob.content.as_ref()).unwrap(),
        }
        assert_eq!(plain, tar);
        let config: Value = serde_json::from_slice(&image.blobs()[1].content).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar).as_str());
    }
}

#[test]
fn gnu_tar_reads_every_kind_of_entry() {
    let long = format!("/{}/x", "d".repeat(120));
    let tar = Layer::new()
        .file("/etc/passwd", 0o640, "root")
        .symlink("/link", "etc/passwd")
        .hard_link("/hard", "/etc/passwd")
        .whiteout("/etc/gone")
        .opaque("/var")
        .file(&long, 0o600, "deep")
        .entry(Entry::new(
            "dev/null",
            0o666,
            EntryKind::Device { major: 1, minor: 3 },
        ))
        .entry(Entry::new("../escape", 0o644, EntryKind::File(b"x".to_vec())).owned_by(5, 6))
        .build();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("layer.tar");
    std::fs::write(&file, tar).unwrap();
    let output = Command::new("tar").arg("-tPvf").arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "-rw-r----- 0/0",
        "link -> etc/passwd",
        "hard link to etc/passwd",
        "etc/.wh.gone",
        "var/.wh..wh..opq",
        &long[1..],
        "1,3",
        "5/6",
        "../escape",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn an_oci_layout_names_its_image() {
    let image = ImageBuilder::new()
        .layer(Layer::new().build(), Compression::None)
        .cmd(&["x"])
        .build();
    let directory = tempfile::tempdir().unwrap();
    image.write_layout(directory.path(), "example.org/a:1").unwrap();
    let index: Value =
        serde_json::from_slice(&std::fs::read(directory.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], image.digest().as_str());
    let manifest = directory.path().join("blobs/sha256").join(image.digest().hex());
    assert_eq!(std::fs::read(manifest).unwrap(), image.manifest().as_ref());
}

#[test]
fn root_busybox_runs_from_its_layer_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("layer.tar");
    std::fs::write(&file, debian::busybox_root().unwrap().build()).unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let unpacked = Command::new("tar")
        .arg("-xpf")
        .arg(&file)
        .arg("-C")
        .arg(&root)
        .status()
        .unwrap();
    assert!(unpacked.success());
    let output = Command::new("chroot")
        .arg(&root)
        .args(["/bin/sh", "-c", "ls /bin/ls; id nobody"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "/bin/ls\nuid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n",
        "{output:?}"
    );
}

#[test]
fn all_images_of_critest_are_built_and_distinct() {
    let images = critest::all().unwrap();
    let of = |name: &str, tag: &str| {
        let found = images
            .iter()
            .find(|image| image.repository.ends_with(name) && image.tag == tag);
        found.unwrap_or_else(|| panic!("{name}:{tag}")).image.id().clone()
    };
    assert_eq!(of("test-image-tags", "1"), of("test-image-tags", "3"));
    let distinct = [
        "test-image-1",
        "test-image-2",
        "test-image-3",
        "test-image-latest",
    ]
    .map(|name| of(name, "latest"));
    let set: std::collections::BTreeSet<_> = distinct.iter().collect();
    assert_eq!(set.len(), 4);
    assert_ne!(of("test-image-tag", "test"), of("test-image-tag", "all"));
}
