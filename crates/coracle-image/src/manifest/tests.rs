//! Documents as builders write them and as attackers do.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn digest(fill: char) -> String {
    format!("sha256:{}", fill.to_string().repeat(64))
}

fn amd64() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: String::new(),
    }
}

fn manifest() -> serde_json::Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest('a'), "size": 7},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest('b'), "size": 9}],
    })
}

fn parse(value: &serde_json::Value, served: &str) -> Result<Document, MalformedDocument> {
    Document::parse(value.to_string().as_bytes(), served)
}

#[test]
fn a_manifest_is_read_by_any_consistent_type() {
    for served in [
        "",
        MANIFEST,
        "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
    ] {
        assert!(matches!(parse(&manifest(), served), Ok(Document::Manifest(m)) if m.layers.len() == 1));
    }
}

#[test]
fn confusion_of_manifest_and_index_is_refused() {
    let mut both = manifest();
    both["manifests"] = json!([]);
    assert_eq!(parse(&both, MANIFEST).unwrap_err(), MalformedDocument::Ambiguous);
    assert!(matches!(
        parse(&manifest(), INDEX),
        Err(MalformedDocument::MediaType { .. })
    ));
    assert!(matches!(
        parse(&manifest(), "text/html"),
        Err(MalformedDocument::MediaType { .. })
    ));
    let mut other = manifest();
    other["mediaType"] = json!(INDEX);
    assert!(matches!(
        parse(&other, MANIFEST),
        Err(MalformedDocument::MediaType { .. })
    ));
    assert!(
        parse(
            &json!({"schemaVersion": 2, "manifests": [], "mediaType": MANIFEST}),
            ""
        )
        .is_err(),
        "an index that calls itself a manifest"
    );
}

#[test]
fn digests_that_are_none_are_refused_before_any_path_is_made() {
    for bad in ["sha256:../../x", "sha256:", "md5:00", "", &digest('A')] {
        let mut hostile = manifest();
        hostile["layers"][0]["digest"] = json!(bad);
        assert!(
            matches!(
                parse(&hostile, ""),
                Err(MalformedDocument::Field { field: "layers", .. })
            ),
            "{bad}"
        );
    }
    let mut negative = manifest();
    negative["layers"][0]["size"] = json!(-1);
    assert!(parse(&negative, "").is_err());
}

#[test]
fn schema_one_and_artifacts_are_refused_by_name() {
    assert_eq!(
        parse(&json!({"schemaVersion": 1, "fsLayers": []}), "").unwrap_err(),
        MalformedDocument::SchemaOne
    );
    let mut chart = manifest();
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    assert!(matches!(
        parse(&chart, ""),
        Err(MalformedDocument::NotAnImage { media_type }) if media_type.contains("helm")
    ));
}

#[test]
fn deep_json_is_an_error_not_a_crash() {
    let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert!(Document::parse(deep.as_bytes(), "").is_err());
    let nested = format!("{{\"x\":{}1{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert!(Document::parse(nested.as_bytes(), "").is_err());
}

#[test]
fn the_best_platform_is_chosen() {
    let entry = |fill: char, architecture: &str, variant: &str| {
        json!({"mediaType": MANIFEST, "digest": digest(fill), "size": 1,
               "platform": {"os": "linux", "architecture": architecture, "variant": variant}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": digest('0'), "size": 1,
         "platform": {"os": "unknown", "architecture": "unknown"}},
        entry('1', "arm", "v6"), entry('2', "arm", "v7"), entry('3', "amd64", ""), entry('4', "amd64", ""),
    ]});
    let Ok(Document::Index(index)) = parse(&index, INDEX) else {
        panic!("an index");
    };
    assert_eq!(index.select(&amd64()).unwrap().digest.as_str(), digest('3'));
    let mut arm = amd64();
    (arm.architecture, arm.variant) = ("arm".to_owned(), "v7".to_owned());
    assert_eq!(index.select(&arm).unwrap().digest.as_str(), digest('2'));
    arm.architecture = "s390x".to_owned();
    let error = index.select(&arm).unwrap_err().to_string();
    assert!(error.contains("linux/amd64"), "{error}");
}

#[test]
fn an_image_that_wants_features_of_the_system_is_left_for_one_that_does_not() {
    let entry = |fill: char, more: serde_json::Value| {
        let mut platform = json!({"os": "linux", "architecture": "amd64"});
        platform
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"mediaType": MANIFEST, "digest": digest(fill), "size": 1, "platform": platform})
    };
    let featured = entry('1', json!({"os.features": ["erofs"]}));
    let versioned = entry('2', json!({"os.version": "6.1", "os.features": null}));
    let index = |entries: Vec<serde_json::Value>| match parse(
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}),
        INDEX,
    ) {
        Ok(Document::Index(index)) => index,
        other => panic!("{other:?}"),
    };
    let both = index(vec![featured.clone(), versioned]);
    assert_eq!(both.select(&amd64()).unwrap().digest.as_str(), digest('2'));
    let error = index(vec![featured]).select(&amd64()).unwrap_err().to_string();
    assert!(error.contains("with features"), "{error}");
}

#[test]
fn a_configuration_is_read_with_go_s_nulls() {
    let config = json!({"os": "linux", "architecture": "amd64",
        "config": {"Env": null, "Cmd": ["sh"], "Volumes": {"/data": {}}, "User": "1000", "Labels": null},
        "rootfs": {"type": "layers", "diff_ids": [digest('d')]}});
    let bytes = config.to_string();
    let read = ImageConfig::parse(bytes.as_bytes(), &amd64(), 1).unwrap();
    assert_eq!(read.settings.cmd, ["sh"]);
    assert!(read.settings.volumes.contains("/data"));
    assert!(
        ImageConfig::parse(bytes.as_bytes(), &amd64(), 2).is_err(),
        "count of layers"
    );
    let mut arm = amd64();
    arm.architecture = "arm64".to_owned();
    assert!(matches!(
        ImageConfig::parse(bytes.as_bytes(), &arm, 1),
        Err(MalformedDocument::NoPlatform { .. })
    ));
}

#[test]
fn a_platform_with_control_characters_is_told_on_one_line() {
    let config = json!({"os": "linux\u{1b}[2J\n", "architecture": "x\u{7f}",
        "rootfs": {"type": "layers", "diff_ids": []}});
    let refusal = ImageConfig::parse(config.to_string().as_bytes(), &amd64(), 0).unwrap_err();
    let told = refusal.to_string();
    assert!(
        told.contains("linux") && !told.contains(char::is_control),
        "{told:?}"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(&bytes, "");
        let _ = ImageConfig::parse(&bytes, &amd64(), 0);
    }
}
