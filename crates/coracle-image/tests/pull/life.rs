//! Images over time: joined pulls, moved tags, removal, restart.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_image::{LayerPhase, LayerProgress, Progress, PullRequest};

use crate::image::{Image, Pack, layer, link_layer, noise};
use crate::node::Node;
use crate::server::{Reply, Server, is_layer, right};

#[tokio::test]
async fn root_identical_pulls_are_one_and_a_client_that_goes_stops_nobody() {
    let image = Image::new("x", vec![layer(Pack::Gzip, &[("f", &noise(3, 100_000))])]);
    let served = image.clone();
    let server = Server::start(move |asked| {
        let mut reply = right(&served, asked);
        if is_layer(&served, asked) {
            reply.stall = Some((10, Duration::from_millis(300)));
        }
        reply
    })
    .await;
    let node = Node::new().await;
    let reference = server.reference("app:1");
    let first = tokio::time::timeout(Duration::from_millis(50), node.pull(&reference)).await;
    assert!(first.is_err(), "the first client is gone");
    let (second, third) = tokio::join!(node.pull(&reference), node.pull(&reference));
    assert_eq!(second.unwrap(), third.unwrap());
    let manifests = server
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains("/manifests/"));
    assert_eq!(manifests.count(), 1);
}

#[tokio::test]
async fn root_a_pull_whose_only_client_goes_is_finished() {
    let image = Image::small("x");
    let server = Server::start(move |asked| right(&image, asked)).await;
    let node = Node::new().await;
    let reference = server.reference("app:1");
    let _ = tokio::time::timeout(Duration::from_millis(1), node.pull(&reference)).await;
    for _ in 0..500 {
        if node.images.get(&reference).is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the image never came");
}

#[tokio::test]
async fn root_a_moved_tag_leaves_the_old_image_its_digest() {
    let (old, new) = (Image::small("old"), Image::small("new"));
    let current = Arc::new(Mutex::new(old.clone()));
    let served = Arc::clone(&current);
    let server = Server::start(move |asked| right(&served.lock().unwrap(), asked)).await;
    let node = Node::new().await;
    let reference = server.reference("app:1");
    node.pull(&reference).await.unwrap();
    let asked = server.asked().len();
    node.pull(&reference).await.unwrap();
    let again = server.asked().split_off(asked);
    assert!(again.len() == 1 && again[0].method == "HEAD", "{again:?}");

    *current.lock().unwrap() = new.clone();
    node.pull(&reference).await.unwrap();
    assert_eq!(node.images.get(&reference).unwrap().id, new.id());
    let left = node.images.get(old.id().as_str()).unwrap();
    assert!(left.repo_tags.is_empty());
    let by_digest = server.reference(&format!("app@{}", old.manifest_digest()));
    assert_eq!(node.images.get(&by_digest).unwrap().id, old.id());
    assert_eq!(node.images.list().len(), 2);
}

#[tokio::test]
async fn root_layers_live_as_long_as_an_image_needs_them() {
    let shared = layer(Pack::Gzip, &[("shared", &noise(1, 50_000))]);
    let first = Image::new(
        "1",
        vec![shared.clone(), layer(Pack::Zstd, &[("one", &noise(2, 9000))])],
    );
    let second = Image::new("2", vec![shared.clone(), shared.clone()]);
    let blobs = AtomicUsize::new(0);
    let (a, b) = (first.clone(), second.clone());
    let server = Server::start(move |asked| {
        if asked.path.contains("/blobs/") {
            blobs.fetch_add(1, Ordering::SeqCst);
        }
        let reply = right(if asked.path.contains("/one/") { &a } else { &b }, asked);
        if reply.status == 404 {
            Reply::status(404)
        } else {
            reply
        }
    })
    .await;
    let node = Node::new().await;
    let (one, two) = (server.reference("one:1"), server.reference("two:1"));
    let (pulled_one, pulled_two) = tokio::join!(node.pull(&one), node.pull(&two));
    let (pulled_one, pulled_two) = (pulled_one.unwrap(), pulled_two.unwrap());
    assert_eq!(pulled_one.layers[0], pulled_two.layers[0]);
    let fetched = server
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains(crate::image::digest(&shared.blob).as_str()));
    assert_eq!(fetched.count(), 1, "a shared layer comes once");
    assert!(pulled_one.size > 0 && node.images.usage().bytes > 0);

    let before = node.images.usage();
    assert!(node.images.remove(&one).await.unwrap().is_some());
    assert!(node.images.usage().bytes < before.bytes);
    assert!(node.images.get(&two).is_some());
    assert!(node.images.remove(&one).await.unwrap().is_none());
    node.pull(&one).await.unwrap();
    node.images.remove(&one).await.unwrap();
    node.images.remove(second.id().as_str()).await.unwrap();
    node.assert_empty().await;
}

#[tokio::test]
async fn root_a_layer_that_links_into_a_lower_one_is_kept_like_any_other() {
    let lower = layer(Pack::Gzip, &[("dir/file", &noise(1, 5000))]);
    let image = Image::new("x", vec![lower, link_layer("link", "dir/file")]);
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    let first = node.pull(&server.reference("one:1")).await.unwrap();
    assert!(first.layers.len() >= 2);
    let before = server.asked().len();
    let second = node.pull(&server.reference("two:1")).await.unwrap();
    assert_eq!(second.layers, first.layers);
    let again = server.asked().split_off(before);
    assert!(!again.iter().any(|asked| is_layer(&image, asked)), "{again:?}");
    node.images.remove(&server.reference("two:1")).await.unwrap();
    node.assert_empty_now();
}

#[tokio::test]
async fn root_what_came_before_the_registry_went_away_is_not_fetched_again() {
    let image = Image::new(
        "x",
        (0..2)
            .map(|n| layer(Pack::Gzip, &[("f", &noise(n, 5000))]))
            .collect(),
    );
    let away = Arc::new(AtomicUsize::new(1));
    let (served, down) = (image.clone(), Arc::clone(&away));
    let last = crate::image::digest(&image.layers[1].blob);
    let server = Server::start(move |asked| {
        if asked.path.contains(last.as_str()) && down.load(Ordering::SeqCst) == 1 {
            let mut reply = Reply::status(503);
            reply.stall = Some((0, Duration::from_millis(100)));
            return reply;
        }
        right(&served, asked)
    })
    .await;
    let node = Node::new().await;
    let reference = server.reference("app:1");
    node.pull(&reference).await.unwrap_err();
    assert!(node.images.get(&reference).is_none());
    away.store(0, Ordering::SeqCst);
    node.pull(&reference).await.unwrap();
    let first = crate::image::digest(&image.layers[0].blob);
    let fetched = server
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains(first.as_str()));
    assert_eq!(fetched.count(), 1);
    node.images.remove(&reference).await.unwrap();
    node.assert_empty_now();
}

#[derive(Default)]
struct Seen(Mutex<Vec<LayerProgress>>);

impl Progress for Seen {
    fn layer(&self, layer: &LayerProgress) {
        self.0.lock().unwrap().push(layer.clone());
    }
}

#[tokio::test]
async fn root_progress_ends_with_every_layer_done() {
    let image = Image::new(
        "x",
        (0..3)
            .map(|n| layer(Pack::Gzip, &[("f", &noise(n, 5000))]))
            .collect(),
    );
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    let seen = Seen::default();
    let request = PullRequest {
        reference: server.reference("app:1"),
        ..PullRequest::default()
    };
    node.images.pull(request, &seen).await.unwrap();
    let seen = seen.0.into_inner().unwrap();
    for layer in &image.layers {
        let digest = crate::image::digest(&layer.blob);
        let last = seen.iter().rfind(|seen| seen.digest == digest).unwrap();
        assert_eq!(last.phase, LayerPhase::Done);
        assert_eq!(
            (last.done, last.total),
            (layer.blob.len() as u64, layer.blob.len() as u64)
        );
    }
}

#[tokio::test]
async fn root_a_restart_finds_whole_images_and_drops_broken_ones() {
    let image = Image::small("x");
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let reference = server.reference("app:1");
    let pulled = {
        let node = Node::open(Arc::clone(&dir), |_| {}).await;
        node.pull(&reference).await.unwrap()
    };
    {
        let node = Node::open(Arc::clone(&dir), |config| {
            config.pinned = vec![reference.parse().unwrap()];
        })
        .await;
        let found = node.images.get(&reference).unwrap();
        assert_eq!(
            (&found.layers, &found.repo_digests),
            (&pulled.layers, &pulled.repo_digests)
        );
        assert!(found.pinned);
        let config = node.images.document(&found.id).await.unwrap();
        assert_eq!(config, image.config);
    }
    let document = dir.path().join("root/blobs/sha256").join(pulled.id.hex());
    std::fs::write(&document, b"damaged").unwrap();
    let node = Node::open(Arc::clone(&dir), |_| {}).await;
    assert!(node.images.get(&reference).is_none());
    node.assert_empty().await;
    node.pull(&reference).await.unwrap();
}
