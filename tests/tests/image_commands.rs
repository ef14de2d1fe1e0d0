//! Images by command: what is pulled is looked into, saved, loaded, pushed and pruned; and a signature
//! policy that the kubelet is told of. Needs root.

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::image::{Compression, ImageBuilder, Layer};
use coracle_testkit::node::DaemonOptions;
use coracle_testkit::node::daemon::program;
use coracle_tests::Bed;
use coracle_tests::bed::{HOST, Plan};
use coracle_tests::checks::holds;
use serde_json::Value;
use tonic::Code;

fn image(mark: &str) -> coracle_testkit::image::Image {
    let base = Layer::new().file("/base", 0o644, "base".repeat(5000)).build();
    let own = Layer::new().file("/mark", 0o644, mark.repeat(5000)).build();
    ImageBuilder::new()
        .layer(base, Compression::Gzip)
        .layer(own, Compression::Gzip)
        .cmd(&["/none"])
        .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_round_by_command_and_keeps_its_digest() -> Result<()> {
    let bed = Bed::make().await?;
    let path = program()?;
    let path = path.to_str().context("the program's path is no text")?;
    let coracle = |arguments: &[&str]| bed.node().run(path, arguments);
    let (one, two) = (image("one"), image("two"));
    let (first, second) = (
        bed.push(&one, "one", "1").await?,
        bed.push(&two, "two", "1").await?,
    );
    let pulled = coracle(&["pull", &first])?;
    holds(&pulled, &[one.digest().as_str()]);
    assert!(!pulled.contains('\u{1b}'), "a pipe sees no colour: {pulled:?}");
    coracle(&["pull", &second])?;

    holds(
        &coracle(&["images", "--digests"])?,
        &["DIGEST", one.digest().as_str()],
    );
    let tree = coracle(&["images", "--tree", "--filter", "name=*two*"])?;
    assert!(tree.lines().count() >= 3, "{tree}");
    let whole = coracle(&["images", "--tree"])?;
    holds(
        &whole,
        &[&format!("shared with {second}"), &format!("shared with {first}")],
    );
    let looked: Value = serde_json::from_str(&coracle(&["inspect", &first, "-o", "json"])?)?;
    assert_eq!(looked["blobs"].as_array().map_or(0, Vec::len), 4, "{looked}");
    for blob in looked["blobs"].as_array().into_iter().flatten() {
        assert_eq!(blob["from"], bed.registry.authority(), "{blob}");
    }
    assert!(looked["config"]["rootfs"].is_object() && looked["manifests"][0]["document"].is_object());

    let archive = bed.node().directory().join("one.tar");
    let file = archive.to_str().context("no text")?;
    coracle(&["save", &first, "--file", file])?;
    coracle(&["rm", &first])?;
    holds(&coracle(&["load", "-i", file])?, &[&first]);
    let back = bed.runtime.image(&first).await?.context("it was loaded")?;
    assert_eq!(back.repo_digests, [format!("{HOST}/one@{}", one.digest())]);
    coracle(&["rm", &first])?;
    bed.node().run(
        "sh",
        &["-c", &format!("gzip -k {file} && {path} load < {file}.gz")],
    )?;
    assert!(bed.runtime.image(&first).await?.is_some());
    let layout = bed.node().directory().join("layout");
    coracle(&[
        "save",
        &second,
        "--format",
        "oci-dir",
        "--file",
        layout.to_str().context("no text")?,
    ])?;
    assert!(layout.join("index.json").exists());

    let copy = format!("{HOST}/copies/one:2");
    holds(
        &coracle(&["push", &first, &copy])?,
        &[&copy, one.digest().as_str()],
    );
    coracle(&["pull", &copy])?;

    // busybox is in use: it stays whatever is asked.
    let (pod, _container) = bed.idle_pod("user").await?;
    let would = coracle(&["prune", "--all", "--dry-run"])?;
    holds(&would, &[&second]);
    assert!(!would.contains("busybox"), "{would}");
    assert!(bed.runtime.image(&second).await?.is_some(), "nothing went");
    let went: Value = serde_json::from_str(&coracle(&["prune", "--all", "--yes", "-o", "json"])?)?;
    assert_eq!(went["images"].as_array().map_or(0, Vec::len), 2, "{went}");
    assert!(went["bytes"].as_u64() > Some(20_000), "{went}");
    assert!(bed.runtime.image(&second).await?.is_none());
    assert!(bed.runtime.image(&bed.busybox).await?.is_some());
    pod.remove().await?;
    for left in [archive.clone(), archive.with_extension("tar.gz")] {
        std::fs::remove_file(left)?;
    }
    std::fs::remove_dir_all(layout)?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_namespace_is_told_as_the_kubelet_knows_it() -> Result<()> {
    let environment = vec![(
        "CORACLE_IMAGE_SIGNATURE_POLICY_DIR".to_owned(),
        "/etc/policies".to_owned(),
    )];
    let plan = Plan {
        daemon: DaemonOptions {
            environment,
            ..DaemonOptions::default()
        },
        subnet: Some("10.90.0.0/16"),
    };
    let bed = Bed::planned(plan).await?;
    let name = bed.push(&image("judged"), "judged", "1").await?;
    let pull = async |namespace: &str| {
        let metadata = cri::PodSandboxMetadata {
            name: "p".to_owned(),
            uid: "u".to_owned(),
            namespace: namespace.to_owned(),
            attempt: 0,
        };
        let request = cri::PullImageRequest {
            image: Some(coracle_testkit::cri::image_spec(&name)),
            auth: None,
            sandbox_config: Some(cri::PodSandboxConfig {
                metadata: Some(metadata),
                ..Default::default()
            }),
        };
        bed.runtime.images().pull_image(request).await
    };
    pull("prod").await?;
    bed.node()
        .write("/etc/policies/prod.json", r#"{"default":[{"type":"reject"}]}"#)?;
    let refused = pull("prod")
        .await
        .expect_err("an image that is here is judged again");
    assert_eq!(refused.code(), Code::Unknown);
    assert!(
        refused.message().starts_with("SignatureValidationFailed: "),
        "{refused}"
    );
    pull("dev").await?;
    bed.runtime.remove_image(&name).await?;
    bed.leave().await
}
