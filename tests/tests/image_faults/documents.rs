//! Manifests and configurations that lie, confuse or explode.

use anyhow::Result;
use coracle_testkit::image::{Blob, INDEX, Image, MANIFEST};
use serde_json::{Value, json};
use tonic::Code;

use crate::matrix::{HOST, Matrix, UNAVAILABLE, noise};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

const REFUSED: [Code; 3] = [Code::InvalidArgument, Code::ResourceExhausted, UNAVAILABLE];

/// Serves each document as a manifest; all must be refused.
async fn all_refused(matrix: &Matrix, cases: Vec<(&str, &str, String, &str)>) -> Result<()> {
    for (name, kind, content, word) in cases {
        matrix.registry.add_manifest("documents", name, kind, content);
        let reference = format!("{HOST}/documents:{name}");
        matrix
            .refused_as(name, &reference, None, (&REFUSED, &[word]))
            .await?;
    }
    Ok(())
}

fn changed(image: &Image, change: impl FnOnce(&mut Value)) -> String {
    let mut manifest: Value = serde_json::from_slice(image.manifest()).expect("the builder writes JSON");
    change(&mut manifest);
    manifest.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2021_41190_documents_of_two_meanings() -> Result<()> {
    let matrix = Matrix::make().await?;
    let image = noise("confused", 1000);
    matrix.registry.add(&image, "documents", "right");
    let entry =
        json!({ "mediaType": MANIFEST, "digest": image.digest().as_str(), "size": image.manifest().len() });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
    let plain = image.manifest().clone();
    let plain = String::from_utf8(plain.to_vec())?;
    let cases = vec![
        (
            "both",
            MANIFEST,
            changed(&image, |m| m["manifests"] = json!([entry])),
            "both",
        ),
        (
            "both-as-index",
            INDEX,
            changed(&image, |m| m["manifests"] = json!([entry])),
            "",
        ),
        ("manifest-as-index", INDEX, plain.clone(), "served as"),
        ("index-as-manifest", MANIFEST, index.clone(), "served as"),
        ("oci-as-docker", DOCKER, plain.clone(), "served as"),
        ("html", "text/html", "<html></html>".to_owned(), ""),
        ("manifest-as-html", "text/html", plain, ""),
        (
            "schema-1",
            SCHEMA_1,
            r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.to_owned(),
            "schema 1",
        ),
    ];
    all_refused(&matrix, cases).await?;
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_3727_digests_that_are_none() -> Result<()> {
    let matrix = Matrix::make().await?;
    let image = noise("digests", 1000);
    matrix.registry.add(&image, "documents", "right");
    let hex = image.blobs()[0].digest.hex().to_owned();
    let digests = [
        "sha256:../../../../etc/passwd".to_owned(),
        "sha256:".to_owned(),
        "sha256:00".to_owned(),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{hex}00"),
        format!("md5:{}", "0".repeat(32)),
        format!("sha512:{hex}"),
        format!("../sha256:{hex}"),
        format!("sha256:{}/", &hex[1..]),
        String::new(),
    ];
    let names: Vec<String> = (0..digests.len() * 2)
        .map(|number| format!("d{number}"))
        .collect();
    let mut cases = Vec::new();
    for (number, digest) in digests.iter().enumerate() {
        let layer = changed(&image, |m| m["layers"][0]["digest"] = json!(digest));
        let config = changed(&image, |m| m["config"]["digest"] = json!(digest));
        cases.push((names[number * 2].as_str(), MANIFEST, layer, "digest"));
        cases.push((names[number * 2 + 1].as_str(), MANIFEST, config, "digest"));
    }
    all_refused(&matrix, cases).await?;
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_25153_documents_without_end() -> Result<()> {
    let matrix = Matrix::make().await?;
    let image = noise("endless", 1000);
    matrix.registry.add(&image, "documents", "right");
    let plain = changed(&image, |_| {});
    let deep =
        |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let layer = |m: &Value| m["layers"][0].clone();
    let cases = vec![
        (
            "five-mebibytes",
            MANIFEST,
            format!("{}{plain}", " ".repeat(5 << 20)),
            "more than 4194304 bytes",
        ),
        (
            "64-mebibytes",
            MANIFEST,
            format!("{}{plain}", " ".repeat(64 << 20)),
            "more than 4194304 bytes",
        ),
        ("nested-arrays", MANIFEST, deep("[", "]", 2 << 20), ""),
        ("nested-objects", MANIFEST, deep("{\"a\":", "}", 500_000), ""),
        ("huge-array", MANIFEST, format!("[{}0]", "0,".repeat(1 << 20)), ""),
        (
            "huge-list-of-layers",
            MANIFEST,
            changed(&image, |m| m["layers"] = json!(vec![json!({}); 500_000])),
            "",
        ),
        (
            "5000-layers",
            MANIFEST,
            changed(&image, |m| m["layers"] = json!(vec![layer(m); 5000])),
            "layers",
        ),
        (
            "many-annotations",
            MANIFEST,
            format!(
                "{{\"annotations\":{{{}\"z\":\"\"}},{}",
                (0..200_000)
                    .map(|n| format!("\"a{n}\":\"\","))
                    .collect::<String>(),
                &plain[1..].replacen("\"layers\"", "\"layer\"", 1)
            ),
            "",
        ),
        ("cut-short", MANIFEST, plain[..plain.len() / 2].to_owned(), ""),
        ("empty", MANIFEST, String::new(), ""),
        (
            "negative-size",
            MANIFEST,
            changed(&image, |m| m["layers"][0]["size"] = json!(-1)),
            "size",
        ),
        (
            "beyond-all-sizes",
            MANIFEST,
            changed(&image, |m| m["layers"][0]["size"] = json!(i64::MAX)),
            "",
        ),
        (
            "repeated-key",
            MANIFEST,
            plain.replacen('{', "{\"schemaVersion\":2,", 1),
            "",
        ),
    ];
    all_refused(&matrix, cases).await?;

    // The same of configurations.
    let config = String::from_utf8(image.blobs()[1].content.to_vec())?;
    let configs = [
        (
            "config-of-5-mebibytes",
            format!("{}{config}", " ".repeat(5 << 20)),
        ),
        ("nested-config", deep("[", "]", 1 << 20)),
        (
            "many-diff-ids",
            config.replacen(
                "\"diff_ids\":[",
                &format!("\"diff_ids\":[{}", "\"\",".repeat(500_000)),
                1,
            ),
        ),
        ("no-json", "{".to_owned()),
    ];
    for (name, content) in configs {
        let blobs = vec![image.blobs()[0].clone()];
        matrix
            .registry
            .add(&Image::new(blobs, Blob::new(CONFIG, content)), name, "1");
        matrix.refused(name, name, &REFUSED, &[]).await?;
    }
    matrix.leave().await
}
