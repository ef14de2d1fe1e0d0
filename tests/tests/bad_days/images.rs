//! Images that lie or are for another machine, and handlers that nobody has.

use anyhow::{Context, Result};
use coracle_testkit::cri::PodSpec;
use coracle_testkit::image::{Blob, Compression, INDEX, Image, ImageBuilder, Layer, digest};
use coracle_testkit::registry::{FaultyRegistry, Trouble, mirror};
use coracle_tests::Bed;
use serde_json::{Value, json};
use tonic::Code;

use crate::refused;

const HOST: &str = "liar.test";

fn layer() -> Vec<u8> {
    Layer::new().file("/x", 0o644, "x".repeat(100_000)).build()
}

fn image() -> Image {
    ImageBuilder::new().layer(layer(), Compression::Gzip).build()
}

/// An image of one layer whose blob is not what belongs to the diff ID.
fn with_blob(blob: Blob, diff_id: &str) -> Image {
    ImageBuilder::new().raw_layer(blob, diff_id).build()
}

/// The first half of a blob, under the digest of that half.
fn half(blob: &Blob) -> Blob {
    Blob::new(&blob.media_type, blob.content.slice(..blob.content.len() / 2))
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_was_promised() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = FaultyRegistry::start(bed.node().listen(0)?)?;
    mirror(bed.node(), HOST, &registry.authority())?;
    let diff_id = digest(&layer()).to_string();
    // A proxy on the way may have done it: the kubelet tries again, and nothing stays meanwhile.
    let again = Code::Unavailable;
    let whole = Compression::Gzip.blob(layer());
    let plain = Compression::None.blob(layer());
    let images = [
        (
            "layer cut in its gzip stream",
            with_blob(half(&whole), &diff_id),
            again,
            &["unpack layer sha256:", "incomplete deflate stream"][..],
        ),
        (
            "layer cut in its tar archive",
            // The image's own digests say that it is to be so: another try would bring the same.
            with_blob(half(&plain), digest(&half(&plain).content).as_str()),
            Code::InvalidArgument,
            &["layer"],
        ),
        (
            "layer with another diff ID",
            with_blob(whole.clone(), digest(b"other").as_str()),
            again,
            &["layer"],
        ),
    ];
    for (case, image, code, parts) in images {
        registry.add(&image, "liar", "1");
        pull(&bed, case, code, parts).await?;
    }
    // The manifest is right, what comes for the layer is not.
    let image = image();
    let blob = image.blobs()[0].digest.to_string();
    registry.add(&image, "liar", "1");
    registry.fail(&blob, u32::MAX, Trouble::Corrupt);
    // What comes is not what the registry itself promised: the kubelet knows this by its prefix.
    let (damaged, prefix) = (Code::Unknown, "RegistryUnavailable:");
    pull(&bed, "layer with another digest", damaged, &["layer", prefix]).await?;
    registry.heal();
    registry.add_blob(&blob, image.blobs()[0].content.slice(..100));
    pull(&bed, "layer shorter than its size", damaged, &["sha256:", prefix]).await?;
    let mut longer = image.blobs()[0].content.to_vec();
    longer.extend([0; 100]);
    registry.add_blob(&blob, longer);
    pull(
        &bed,
        "layer longer than its size",
        Code::ResourceExhausted,
        &["sent more than", "sha256:"],
    )
    .await?;
    drop(registry);
    bed.leave().await
}

/// The pull is refused in words that name the image, and nothing of it is there.
async fn pull(bed: &Bed, case: &str, code: Code, parts: &[&str]) -> Result<()> {
    let reference = format!("{HOST}/liar:1");
    let words = refused(case, bed.runtime.pull(&reference).await, code, parts);
    assert!(
        words.contains(&reference),
        "{case}: the image is not named: {words}"
    );
    assert_eq!(bed.runtime.image(&reference).await?, None);
    let layers = std::fs::read_dir(bed.node().root().join("layers")).context("layers")?;
    // busybox's own, and what the store keeps beside them.
    assert!(layers.count() <= 4, "{case}: something is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_for_other_machines() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = FaultyRegistry::start(bed.node().listen(0)?)?;
    mirror(bed.node(), HOST, &registry.authority())?;
    let foreign = ImageBuilder::new()
        .layer(layer(), Compression::Gzip)
        .architecture("arm64")
        .build();
    registry.add(&foreign, "foreign", "1");
    let platforms = [("arm64", "linux"), ("s390x", "linux"), ("amd64", "windows")];
    let descriptor = |(architecture, os): (&str, &str)| -> Value {
        json!({
            "mediaType": foreign.manifest_type(),
            "digest": foreign.digest().as_str(),
            "size": foreign.manifest().len(),
            "platform": { "architecture": architecture, "os": os },
        })
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": platforms.map(descriptor),
    });
    registry.add_manifest("foreign", "index", INDEX, index.to_string());
    refused(
        "no image for the platform",
        bed.runtime.pull(&format!("{HOST}/foreign:index")).await,
        Code::NotFound,
        &[
            "linux/amd64",
            "linux/arm64",
            "linux/s390x",
            "windows/amd64",
            "foreign:index",
        ],
    );
    refused(
        "image for another platform, without an index",
        bed.runtime.pull(&format!("{HOST}/foreign:1")).await,
        Code::NotFound,
        &["linux/amd64", "linux/arm64", "foreign:1"],
    );
    refused(
        "no such tag",
        bed.runtime.pull(&format!("{HOST}/foreign:none")).await,
        Code::NotFound,
        &["foreign:none"],
    );
    drop(registry);
    let words = refused(
        "registry not there",
        bed.runtime.pull(&format!("{HOST}/foreign:1")).await,
        Code::Unknown,
        &["RegistryUnavailable: ", "foreign:1", "refused"],
    );
    assert!(
        words.starts_with("RegistryUnavailable: "),
        "clients look at the beginning: {words}"
    );
    let mut handler = PodSpec::new("handler");
    handler.handler = "kata-none".into();
    refused(
        "unknown handler",
        bed.runtime.run_pod(handler).await.map(drop),
        Code::InvalidArgument,
        &["runtime_handler", "kata-none", "\"\""],
    );
    bed.leave().await
}
