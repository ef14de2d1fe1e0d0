//! Saves and loads: the same digest where the bytes can be had, the same files and a new digest where not.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_image::{ArchiveForm, ArchivesLoaded, Image as Pulled, SaveRequest};
use coracle_types::{Kind, Kinded};

use crate::archives::{write_layout, write_tar};
use crate::image::{Image, Pack, layer, noise};
use crate::node::Node;
use crate::server::{Reply, Server, right};

fn image() -> Image {
    Image::new(
        "saved",
        vec![
            layer(
                Pack::Gzip,
                &[("etc/one", &noise(1, 50_000)), ("etc/two", b"below")],
            ),
            layer(Pack::Zstd, &[("etc/.wh.two", b""), ("three", b"3")]),
            layer(Pack::Plain, &[("four", b"4")]),
        ],
    )
}

async fn saved(node: &Node, name: &str, form: ArchiveForm, offline: bool) -> (Vec<u8>, Vec<String>) {
    let request = SaveRequest {
        names: vec![name.to_owned()],
        form,
        offline,
        credentials: None,
    };
    let mut saved = node.images.save(request).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = saved.bytes.recv().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    (bytes, saved.notes)
}

async fn loaded(node: &Node, archive: &[u8]) -> Arc<Pulled> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(archive).unwrap();
    let mut images = node.images.load_sent(file).await.unwrap();
    assert_eq!(images.len(), 1);
    images.remove(0)
}

fn served(image: &Image) -> impl Future<Output = Server> + use<> {
    let image = image.clone();
    Server::start(move |asked| right(&image, asked))
}

#[tokio::test]
async fn root_a_pulled_image_is_saved_with_its_digest_in_both_forms() {
    let image = image();
    let server = served(&image).await;
    let node = Node::new().await;
    let name = server.reference("app:1");
    node.pull(&name).await.unwrap();
    for form in [ArchiveForm::Oci, ArchiveForm::Docker] {
        let (archive, notes) = saved(&node, &name, form, false).await;
        assert!(notes.is_empty(), "{notes:?}");
        let other = Node::new().await;
        let found = loaded(&other, &archive).await;
        assert_eq!(found.id, image.id(), "{form:?}");
        assert!(found.repo_tags.contains(&name), "{:?}", found.repo_tags);
        if form == ArchiveForm::Oci {
            let by_digest = server.reference(&format!("app@{}", image.manifest_digest()));
            assert!(
                found.repo_digests.contains(&by_digest),
                "{:?}",
                found.repo_digests
            );
        }
        // The same again, compressed as a whole.
        other.images.remove(&name).await.unwrap();
        let packed = zstd::encode_all(&archive[..], 1).unwrap();
        assert_eq!(loaded(&other, &packed).await.id, image.id());
    }
}

#[tokio::test]
async fn root_without_its_registry_an_image_is_written_anew_and_it_is_said() {
    let image = image();
    let gone = Arc::new(AtomicBool::new(false));
    let (served, asleep) = (image.clone(), Arc::clone(&gone));
    let server = Server::start(move |asked| {
        if asleep.load(Ordering::Relaxed) {
            return Reply::status(404);
        }
        right(&served, asked)
    })
    .await;
    let node = Node::new().await;
    let name = server.reference("app:1");
    node.pull(&name).await.unwrap();
    gone.store(true, Ordering::Relaxed);
    for offline in [false, true] {
        let (archive, notes) = saved(&node, &name, ArchiveForm::Oci, offline).await;
        assert!(
            notes[0].contains("new digest") && notes[0].contains("one layer"),
            "{notes:?}"
        );
        let other = Node::new().await;
        let found = loaded(&other, &archive).await;
        assert_ne!(found.id, image.id());
        assert!(found.repo_tags.contains(&name));
        assert_eq!(
            found.settings.cmd,
            ["sh"],
            "the configuration is the same but for its layers"
        );
        let layers = other.dir.path().join("root/layers");
        let file = |path: &str| {
            let mut trees = std::fs::read_dir(&layers)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            trees.find_map(|tree| std::fs::read(tree.join("fs").join(path)).ok())
        };
        assert_eq!(file("etc/one").unwrap(), noise(1, 50_000));
        assert_eq!(
            (file("three").unwrap(), file("four").unwrap()),
            (b"3".to_vec(), b"4".to_vec())
        );
        assert_eq!(file("etc/two"), None, "what a layer removed stays removed");
        let (again, _) = saved(&node, &name, ArchiveForm::Docker, true).await;
        assert_eq!(
            loaded(&other, &again).await.id,
            found.id,
            "the same files are the same image"
        );
    }
}

#[tokio::test]
async fn root_a_loaded_image_is_saved_from_its_archive_while_that_is_the_same() {
    let image = image();
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(
        &layout,
        &image,
        &serde_json::json!({"io.containerd.image.name": "r.example/app:1"}),
    );
    node.images.load(&layout, None).await.unwrap();
    let (archive, notes) = saved(&node, "r.example/app:1", ArchiveForm::Oci, true).await;
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(loaded(&Node::new().await, &archive).await.id, image.id());
    let details = node.images.details("r.example/app:1").await.unwrap();
    let origins: Vec<_> = details
        .blobs
        .iter()
        .map(|blob| (blob.what, blob.origin.clone()))
        .collect();
    assert_eq!(origins.len(), 5, "{origins:?}");
    for (what, origin) in origins {
        let archive = origin.unwrap().archive.unwrap();
        assert_eq!(archive.path, layout, "{what}");
    }
    // Someone has put another blob in its place.
    let (digest, blob) = image.blobs().swap_remove(0);
    let place = layout.join("blobs/sha256").join(digest.hex());
    std::fs::write(&place, vec![0; blob.len()]).unwrap();
    let (_, notes) = saved(&node, "r.example/app:1", ArchiveForm::Oci, true).await;
    assert!(notes[0].contains("new digest"), "{notes:?}");
}

#[tokio::test]
async fn root_an_image_s_blobs_are_told_with_the_hosts_that_gave_them() {
    let image = image();
    let server = served(&image).await;
    let node = Node::new().await;
    let name = server.reference("app:1");
    node.pull(&name).await.unwrap();
    let details = node.images.details(&name).await.unwrap();
    let what: Vec<_> = details.blobs.iter().map(|blob| blob.what).collect();
    assert_eq!(what, ["manifest", "configuration", "layer", "layer", "layer"]);
    for blob in &details.blobs {
        let origin = blob.origin.as_ref().unwrap();
        assert_eq!(origin.hosts, [server.address.as_str()], "{}", blob.what);
        assert!(origin.at.0 > 0);
    }
    assert_eq!(details.config, image.config);
    assert_eq!(details.manifests[0].1, image.manifest);
    assert!(details.layers.len() >= 3);
    let missing = node.images.details("nothing/here").await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[tokio::test]
async fn root_a_directory_of_archives_is_loaded_once_while_its_images_are_here() {
    let dir = tempfile::tempdir().unwrap();
    let (archives, record) = (dir.path().join("archives"), dir.path().join("record.json"));
    std::fs::create_dir(&archives).unwrap();
    let layout = dir.path().join("layout");
    write_layout(
        &layout,
        &image(),
        &serde_json::json!({"io.containerd.image.name": "r.example/app:1"}),
    );
    write_tar(&layout, &archives.join("app.tar"));
    let small = Image::small("second");
    write_layout(
        &archives.join("second"),
        &small,
        &serde_json::json!({"io.containerd.image.name": "r.example/second:1"}),
    );
    std::fs::write(archives.join(".half-copied.tar"), "x").unwrap();
    std::fs::write(archives.join("broken.tar"), "no archive at all").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", archives.join("link.tar")).unwrap();
    let node = Node::new().await;
    let load = async || node.images.load_directory(&archives, &record).await.unwrap();
    let outcome = |loaded, present| ArchivesLoaded {
        loaded,
        present,
        failed: 1,
    };
    assert_eq!(load().await, outcome(2, 0));
    assert_eq!(node.images.list().len(), 2);
    assert_eq!(load().await, outcome(0, 2));
    // The same content under another name, and a file that was only touched.
    std::fs::copy(archives.join("app.tar"), archives.join("app2.tar")).unwrap();
    touch(&archives.join("app.tar"));
    assert_eq!(load().await, outcome(0, 3));
    // What was removed comes back: the node can get it nowhere else.
    node.images.remove("r.example/app:1").await.unwrap();
    assert_eq!(load().await, outcome(1, 2));
    assert!(node.images.get("r.example/app:1").is_some());
}

fn touch(path: &Path) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
}

#[tokio::test]
async fn root_a_bomb_in_an_archive_is_refused_and_leaves_nothing() {
    let node = Node::open(Arc::new(tempfile::tempdir().unwrap()), |config| {
        config.limits.unpacked = 1 << 20;
    })
    .await;
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 64 << 20), 1).unwrap();
    assert!(bomb.len() < 100_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bomb).unwrap();
    let error = node.images.load_sent(file).await.unwrap_err();
    assert!(
        error.to_string().contains("unpacks to more than 1048576 bytes"),
        "{error}"
    );
    node.assert_empty().await;
}
