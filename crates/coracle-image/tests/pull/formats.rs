//! What builders and registries produce, read as containerd reads it, and what is refused by name.

use std::sync::Arc;

use coracle_image::Platform;
use coracle_types::{Kind, Kinded};
use serde_json::{Value, json};

use crate::image::{INDEX, Image, MANIFEST, Pack, digest, layer};
use crate::node::Node;
use crate::server::{Reply, Server, right};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Serves documents by tag or digest beside the blobs of an image.
async fn serve(image: &Image, documents: Vec<(String, &'static str, Vec<u8>)>) -> Server {
    let image = image.clone();
    Server::start(move |asked| {
        let name = asked.path.rsplit('/').next().unwrap();
        let found = documents
            .iter()
            .find(|(known, _, bytes)| known == name || digest(bytes).as_str() == name);
        match found.filter(|_| asked.path.contains("/manifests/")) {
            Some((_, media_type, bytes)) => Reply::status(200).header("content-type", media_type).body(bytes),
            None => right(&image, asked),
        }
    })
    .await
}

async fn pull(image: &Image, media_type: &'static str, manifest: &Value) -> Result<(), coracle_image::Error> {
    let document = ("1".to_owned(), media_type, manifest.to_string().into_bytes());
    let server = serve(image, vec![document]).await;
    let node = Node::new().await;
    let pulled = node.pull(&server.reference("app:1")).await;
    if pulled.is_err() {
        node.assert_empty().await;
    }
    pulled.map(|pulled| assert_eq!(pulled.id, image.id()))
}

fn manifest(image: &Image) -> Value {
    serde_json::from_slice(&image.manifest).unwrap()
}

#[tokio::test]
async fn root_docker_s_schema_two_is_an_image() {
    let image = Image::small("docker");
    let mut docker = manifest(&image);
    docker["mediaType"] = json!(DOCKER_MANIFEST);
    docker["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    docker["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    pull(&image, DOCKER_MANIFEST, &docker).await.unwrap();

    let bytes = docker.to_string().into_bytes();
    let config: Value = serde_json::from_slice(&image.config).unwrap();
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [
        {"mediaType": DOCKER_MANIFEST, "digest": digest(&bytes), "size": bytes.len(),
         "platform": {"os": "linux", "architecture": config["architecture"]}}]});
    let documents = vec![
        ("1".to_owned(), DOCKER_LIST, list.to_string().into_bytes()),
        ("none".to_owned(), DOCKER_MANIFEST, bytes),
    ];
    let server = serve(&image, documents).await;
    let pulled = Node::new().await.pull(&server.reference("app:1")).await.unwrap();
    assert_eq!(pulled.id, image.id());
}

#[tokio::test]
async fn root_images_of_no_layers_empty_layers_and_very_many_are_images() {
    let empty_file = layer(Pack::Gzip, &[]);
    let plain = layer(Pack::Plain, &[("f", b"plain")]);
    let many: Vec<_> = (0..140_u32)
        .map(|number| layer(Pack::Gzip, &[("f", &number.to_le_bytes())]))
        .collect();
    for image in [
        Image::new("none", Vec::new()),
        Image::new("empty", vec![empty_file.clone(), plain.clone(), empty_file]),
        Image::new("many", many),
    ] {
        pull(&image, MANIFEST, &manifest(&image)).await.unwrap();
    }
}

#[tokio::test]
async fn root_a_layer_of_zero_bytes_is_an_empty_layer() {
    let mut image = Image::new("zero", vec![layer(Pack::Plain, &[("f", b"x")])]);
    let none = digest(b"");
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    config["rootfs"]["diff_ids"][0] = json!(none);
    image.config = config.to_string().into_bytes();
    image.layers[0].blob = Vec::new();
    let mut document = manifest(&image);
    document["layers"][0]["digest"] = json!(none);
    document["layers"][0]["size"] = json!(0);
    document["config"]["digest"] = json!(digest(&image.config));
    document["config"]["size"] = json!(image.config.len());
    pull(&image, MANIFEST, &document).await.unwrap();
}

#[tokio::test]
async fn root_zstd_chunked_is_zstd_with_frames_to_skip() {
    let mut image = Image::new("chunked", vec![layer(Pack::Zstd, &[("f", b"content")])]);
    // A table of contents in a skippable frame at the end (RFC 8878, 3.1.2).
    let table = b"{\"version\":1}";
    let blob = &mut image.layers[0].blob;
    blob.extend_from_slice(&0x184D_2A50_u32.to_le_bytes());
    blob.extend_from_slice(&u32::try_from(table.len()).unwrap().to_le_bytes());
    blob.extend_from_slice(table);
    let mut document = manifest(&image);
    document["layers"][0]["digest"] = json!(digest(&image.layers[0].blob));
    document["layers"][0]["size"] = json!(image.layers[0].blob.len());
    document["layers"][0]["annotations"] =
        json!({"io.github.containers.zstd-chunked.manifest-checksum": "x"});
    pull(&image, MANIFEST, &document).await.unwrap();
}

#[tokio::test]
async fn root_foreign_layers_come_from_the_registry_and_from_nowhere_else() {
    let image = Image::small("foreign");
    let elsewhere = Server::start({
        let image = image.clone();
        move |asked| right(&image, asked)
    })
    .await;
    let mut document = manifest(&image);
    document["layers"][0]["mediaType"] = json!(FOREIGN);
    document["layers"][0]["urls"] = json!([format!(
        "http://{}/v2/x/blobs/{}",
        elsewhere.address,
        digest(&image.layers[0].blob)
    )]);
    pull(&image, MANIFEST, &document).await.unwrap();

    let mut bare = image.clone();
    bare.layers.clear();
    let manifest = document.to_string().into_bytes();
    let server = serve(&bare, vec![("1".to_owned(), MANIFEST, manifest)]).await;
    let node = Node::new().await;
    let error = node.pull(&server.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(
        error.to_string().contains("foreign") && error.to_string().contains("urls"),
        "{error}"
    );
    assert!(elsewhere.asked().is_empty());
    node.assert_empty().await;
}

#[tokio::test]
async fn root_what_is_no_image_is_refused_by_its_name() {
    let image = Image::small("x");
    let mut encrypted = manifest(&image);
    encrypted["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    let mut confused = manifest(&image);
    confused["manifests"] = json!([]);
    for (document, words) in [
        (encrypted, "encrypted"),
        (confused, "both `manifests` and `layers`"),
        (
            json!({"schemaVersion": 1, "fsLayers": [], "history": []}),
            "schema 1",
        ),
    ] {
        let error = pull(&image, MANIFEST, &document).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn root_indexes_lead_to_each_other_so_far_and_no_further() {
    let image = Image::small("deep");
    let config: Value = serde_json::from_slice(&image.config).unwrap();
    let platform = json!({"os": "linux", "architecture": config["architecture"]});
    let mut documents = Vec::new();
    let (mut next, mut media_type) = (image.manifest.clone(), MANIFEST);
    for depth in 1..=3 {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": media_type, "digest": digest(&next), "size": next.len(), "platform": platform}]});
        next = index.to_string().into_bytes();
        media_type = INDEX;
        documents.push((format!("{depth}"), INDEX, next.clone()));
    }
    let server = serve(&image, documents).await;
    let node = Node::new().await;
    for depth in [1, 2] {
        let pulled = node
            .pull(&server.reference(&format!("app:{depth}")))
            .await
            .unwrap();
        assert_eq!(pulled.id, image.id());
    }
    let error = node.pull(&server.reference("app:3")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
}

#[tokio::test]
async fn root_the_best_variant_that_the_node_runs_is_pulled() {
    let with = |architecture: &str, variant: &str| {
        let mut image = Image::small(&format!("{architecture}{variant}"));
        let mut config: Value = serde_json::from_slice(&image.config).unwrap();
        config["architecture"] = json!(architecture);
        config["variant"] = json!(variant);
        image.config = config.to_string().into_bytes();
        let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        manifest["config"]["digest"] = json!(digest(&image.config));
        manifest["config"]["size"] = json!(image.config.len());
        image.manifest = manifest.to_string().into_bytes();
        image
    };
    let offered = [
        ("amd64", ""),
        ("amd64", "v2"),
        ("amd64", "v3"),
        ("arm", "v6"),
        ("arm", "v7"),
        ("386", ""),
    ];
    let images: Vec<Image> = offered
        .iter()
        .map(|(architecture, variant)| with(architecture, variant))
        .collect();
    let entries: Vec<Value> = images
        .iter()
        .zip(offered)
        .map(|(image, (architecture, variant))| {
            json!({"mediaType": MANIFEST, "digest": image.manifest_digest(), "size": image.manifest.len(),
                   "platform": {"os": "linux", "architecture": architecture, "variant": variant}})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let served = images.clone();
    let server = Server::start(move |asked| {
        if asked.path.ends_with("/manifests/1") {
            return Reply::status(200)
                .header("content-type", INDEX)
                .body(index.as_bytes());
        }
        let mut replies = served.iter().map(|image| right(image, asked));
        replies
            .find(|reply| reply.status != 404)
            .unwrap_or_else(|| Reply::status(404))
    })
    .await;
    for (architecture, variant, expected) in [
        ("amd64", "v2", 1),
        ("amd64", "v4", 2),
        ("amd64", "", 0),
        ("arm", "v7", 4),
        ("arm", "v6", 3),
        ("arm64", "v8", 4),
    ] {
        let node = Node::open(Arc::new(tempfile::tempdir().unwrap()), |config| {
            config.platform = Platform {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.to_owned(),
            };
        })
        .await;
        let pulled = node.pull(&server.reference("app:1")).await.unwrap();
        assert_eq!(pulled.id, images[expected].id(), "{architecture}/{variant}");
    }
}
