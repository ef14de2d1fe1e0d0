//! Names of images: how they are found, move and go.

use super::*;

fn digest(fill: char) -> Digest {
    format!("sha256:{}", fill.to_string().repeat(64)).parse().unwrap()
}

fn image(fill: char) -> Image {
    Image {
        id: digest(fill),
        repo_tags: BTreeSet::new(),
        repo_digests: BTreeSet::new(),
        size: 1,
        download_size: 1,
        layers: Vec::new(),
        settings: ImageSettings::default(),
        platform: Platform::host(),
        created: String::new(),
        origins: BTreeMap::new(),
        documents: BTreeMap::new(),
        pulled_at: UnixNanos(0),
        artifact: None,
        pinned: false,
    }
}

fn names(tag: &str, manifest: char) -> Vec<Names> {
    let reference: Reference = tag.parse().unwrap();
    vec![Names {
        tag: reference.repo_tag(),
        digest: Some(reference.repo_digest(&digest(manifest))),
    }]
}

fn open(dir: &std::path::Path) -> (Store, Catalog) {
    let store = Store::open(&dir.join("db.redb")).unwrap();
    let pinned = BTreeSet::from(["docker.io/library/app:2".to_owned()]);
    let catalog = Catalog::open(&store, None, pinned, |_| Ok(())).unwrap();
    (store, catalog)
}

#[tokio::test]
async fn id_tag_digest_and_prefix_find_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, catalog) = open(dir.path());
    catalog
        .publish(image('a'), names("app:1", '1'), Vec::new())
        .await
        .unwrap();
    let manifest = digest('1');
    for name in [
        "app:1",
        "docker.io/library/app:1",
        digest('a').as_str(),
        digest('a').hex(),
        "aaaa",
        "sha256:aaaaaaaaaaaa",
        &format!("app@{manifest}"),
        &format!("app:other@{manifest}"),
    ] {
        assert_eq!(
            catalog.get(name).map(|image| image.id.clone()),
            Some(digest('a')),
            "{name}"
        );
    }
    for name in ["app", "aaa", "", "app:2", "../a", digest('1').as_str()] {
        assert!(catalog.get(name).is_none(), "{name}");
    }
    let mut near = image('a');
    near.id = format!("sha256:{}b", "a".repeat(63)).parse().unwrap();
    catalog.publish(near, Vec::new(), Vec::new()).await.unwrap();
    assert!(catalog.get("aaaa").is_none(), "no longer unique");
}

#[tokio::test]
async fn a_tag_moves_and_the_old_image_keeps_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_store, catalog) = open(dir.path());
        catalog
            .publish(image('a'), names("app:1", '1'), Vec::new())
            .await
            .unwrap();
        let new = catalog
            .publish(image('b'), names("app:1", '2'), Vec::new())
            .await
            .unwrap();
        assert!(new.repo_tags.contains("docker.io/library/app:1"));
        let again = catalog
            .publish(image('b'), names("app:2", '2'), Vec::new())
            .await
            .unwrap();
        assert_eq!(again.repo_tags.len(), 2);
        assert!(again.pinned);
    }
    let (_store, catalog) = open(dir.path());
    let old = catalog.get(digest('a').as_str()).unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(old.repo_digests.len(), 1);
    assert_eq!(catalog.get("app:1").unwrap().id, digest('b'));
    assert!(
        catalog.get("app:2").unwrap().pinned,
        "pins come from the configuration at each start"
    );
}

#[tokio::test]
async fn removal_by_one_name_takes_all() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, catalog) = open(dir.path());
    catalog
        .publish(image('a'), names("app:1", '1'), Vec::new())
        .await
        .unwrap();
    catalog
        .publish(image('a'), names("app:3", '1'), Vec::new())
        .await
        .unwrap();
    let removed = catalog.remove("app:3").await.unwrap().unwrap();
    assert_eq!(removed.repo_tags.len(), 2);
    assert!(catalog.get("app:1").is_none() && catalog.list().is_empty());
    assert!(
        catalog.remove("app:1").await.unwrap().is_none(),
        "once more is no error"
    );
}

#[tokio::test]
async fn a_broken_image_is_dropped_at_start_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_store, catalog) = open(dir.path());
        catalog
            .publish(image('a'), names("app:1", '1'), Vec::new())
            .await
            .unwrap();
        catalog
            .publish(image('b'), names("app:2", '2'), Vec::new())
            .await
            .unwrap();
    }
    let store = Store::open(&dir.path().join("db.redb")).unwrap();
    let catalog = Catalog::open(&store, None, BTreeSet::new(), |image| {
        if image.id == digest('a') {
            Err("a layer is missing".to_owned())
        } else {
            Ok(())
        }
    })
    .unwrap();
    assert_eq!(catalog.list().len(), 1);
    assert!(catalog.get("app:1").is_none());
}

#[tokio::test]
async fn a_damaged_database_costs_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("db.redb"), dir.path().join("images.json"));
    {
        let store = Store::open(&path).unwrap();
        let catalog = Catalog::open(&store, Some(copy.clone()), BTreeSet::new(), |_| Ok(())).unwrap();
        for (fill, name) in [('a', "app:1"), ('b', "app:2")] {
            catalog
                .publish(image(fill), names(name, fill), Vec::new())
                .await
                .unwrap();
        }
        catalog.remove("app:1").await.unwrap();
    }
    std::fs::write(&path, "").unwrap();
    for _ in 0..2 {
        // The second time from the database itself.
        let store = Store::open(&path).unwrap();
        let catalog = Catalog::open(&store, Some(copy.clone()), BTreeSet::new(), |_| Ok(())).unwrap();
        assert_eq!(catalog.list().len(), 1);
        assert_eq!(catalog.get("app:2").unwrap().id, digest('b'));
    }
}
