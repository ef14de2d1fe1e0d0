//! Archives: OCI layouts as directories and tars, and what `docker save` writes.

use std::fs;
use std::path::Path;

use coracle_types::{Kind, Kinded};
use serde_json::json;

use crate::image::{Image, MANIFEST, Pack, layer, noise};
use crate::node::Node;

fn image() -> Image {
    Image::new(
        "archived",
        vec![
            layer(Pack::Gzip, &[("one", &noise(1, 20_000))]),
            layer(Pack::Plain, &[("two", b"2")]),
        ],
    )
}

pub(crate) fn write_layout(dir: &Path, image: &Image, annotations: &serde_json::Value) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    for (digest, blob) in image.blobs() {
        fs::write(blobs.join(digest.hex()), blob).unwrap();
    }
    fs::write(blobs.join(image.manifest_digest().hex()), &image.manifest).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": image.manifest_digest(), "size": image.manifest.len(),
        "annotations": annotations,
    }]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

pub(crate) fn write_tar(dir: &Path, path: &Path) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap();
}

#[tokio::test]
async fn root_layouts_are_loaded_from_directory_and_tar() {
    let image = image();
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(
        &layout,
        &image,
        &json!({"io.containerd.image.name": "r.example/app:1"}),
    );
    let loaded = node.images.load(&layout, None).await.unwrap();
    assert_eq!(loaded[0].id, image.id());
    assert_eq!(node.images.get("r.example/app:1").unwrap().id, image.id());
    let by_digest = format!("r.example/app@{}", image.manifest_digest());
    assert!(node.images.get(&by_digest).is_some());
    node.images.remove("r.example/app:1").await.unwrap();
    node.assert_empty().await;

    let tar = dir.path().join("layout.tar");
    write_layout(
        &layout,
        &image,
        &json!({"org.opencontainers.image.ref.name": "2"}),
    );
    write_tar(&layout, &tar);
    let base = "r.example/other".parse().unwrap();
    node.images.load(&tar, Some(&base)).await.unwrap();
    assert_eq!(node.images.get("r.example/other:2").unwrap().id, image.id());
    let nameless = node.images.load(&tar, None).await.unwrap();
    assert_eq!(nameless[0].id, image.id(), "it keeps the name that it had");
}

#[tokio::test]
async fn root_docker_archives_are_loaded() {
    let image = image();
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("saved.tar");
    let source = dir.path().join("saved");
    let config = format!("{}.json", image.id().hex());
    let manifest = json!([{"Config": config, "RepoTags": ["app:1", "r.example/app:2"],
                           "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    for name in ["a", "b"] {
        fs::create_dir_all(source.join(name)).unwrap();
    }
    fs::write(source.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(source.join(&config), &image.config).unwrap();
    fs::write(source.join("a/layer.tar"), &image.layers[0].tar).unwrap();
    fs::write(source.join("b/layer.tar"), &image.layers[1].blob).unwrap();
    write_tar(&source, &tar);
    let loaded = node.images.load(&tar, None).await.unwrap();
    assert_eq!(loaded[0].repo_tags.len(), 2);
    assert_eq!(node.images.get("app:1"), node.images.get("r.example/app:2"));
    node.images.remove("app:1").await.unwrap();
    node.assert_empty().await;
}

#[tokio::test]
async fn root_damaged_and_hostile_archives_are_refused() {
    let image = image();
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(&layout, &image, &json!({}));
    for (version, words) in [
        (r#"{"imageLayoutVersion":"2.0.0"}"#, "says version \"2.0.0\""),
        ("{}", "oci-layout: missing field"),
    ] {
        fs::write(layout.join("oci-layout"), version).unwrap();
        let error = node.images.load(&layout, None).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    fs::remove_file(layout.join("oci-layout")).unwrap();
    let (layer, _) = image.blobs().swap_remove(0);
    fs::write(layout.join("blobs/sha256").join(layer.hex()), b"damaged").unwrap();
    node.images.load(&layout, None).await.unwrap_err();
    fs::write(
        layout.join("blobs/sha256").join(image.manifest_digest().hex()),
        b"{}",
    )
    .unwrap();
    node.images.load(&layout, None).await.unwrap_err();
    fs::write(layout.join("index.json"), r#"{"manifests":[],"layers":[]}"#).unwrap();
    node.images.load(&layout, None).await.unwrap_err();
    let saved = dir.path().join("saved");
    fs::create_dir(&saved).unwrap();
    fs::write(
        saved.join("manifest.json"),
        r#"[{"Config":"../../../etc/passwd","Layers":[]}]"#,
    )
    .unwrap();
    let error = node.images.load(&saved, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    for nothing in [
        dir.path().join("missing"),
        Path::new("/dev/null").to_owned(),
        dir.path().to_owned(),
    ] {
        assert!(
            node.images.load(&nothing, None).await.is_err(),
            "{}",
            nothing.display()
        );
    }
    node.assert_empty().await;
}
