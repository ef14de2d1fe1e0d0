//! What a registry does wrong: a clear error, nothing left, or the right image all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coracle_types::{Kind, Kinded};
use serde_json::json;

use crate::image::{Image, MANIFEST, Pack, layer, noise};
use crate::node::Node;
use crate::server::{Reply, Server, is_layer, right};

fn large() -> Image {
    let content = noise(7, 3 << 20);
    Image::new("large", vec![layer(Pack::Gzip, &[("large", &content)])])
}

async fn refused(server: &Server, kind: Kind) -> String {
    let node = Node::new().await;
    let error = node.pull(&server.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    if kind != Kind::RegistryUnavailable {
        node.assert_empty_now();
    }
    node.assert_empty().await;
    error.to_string()
}

#[tokio::test]
async fn root_a_blob_with_other_content_is_refused() {
    let (image, other) = (Image::small("a"), noise(1, 500));
    let server = Server::start(move |asked| {
        if is_layer(&image, asked) {
            let mut reply = right(&image, asked);
            let at = reply.body.len() - 1;
            reply.body[at] ^= 1;
            reply
        } else {
            right(&image, asked)
        }
    })
    .await;
    refused(&server, Kind::RegistryUnavailable).await;

    let image = Image::small("b");
    let server = Server::start(move |asked| match asked.path.contains("/manifests/") {
        true => right(&image, asked),
        false => Reply::status(200).body(&other),
    })
    .await;
    refused(&server, Kind::ResourceExhausted).await;
}

#[tokio::test]
async fn root_a_blob_cut_at_every_tenth_is_resumed() {
    for tenth in 0..10 {
        let image = large();
        let cuts = AtomicUsize::new(0);
        let served = image.clone();
        let server = Server::start(move |asked| {
            let mut reply = right(&served, asked);
            if is_layer(&served, asked) && cuts.fetch_add(1, Ordering::SeqCst) == 0 {
                reply.cut = Some(reply.body.len() / 10 * tenth);
            }
            reply
        })
        .await;
        let node = Node::new().await;
        let pulled = node.pull(&server.reference("app:1")).await.unwrap();
        assert_eq!(pulled.id, image.id());
        let layers = server.asked().into_iter().filter(|asked| is_layer(&image, asked));
        let ranges: Vec<_> = layers.map(|asked| asked.headers.get("range").cloned()).collect();
        assert_eq!(ranges.len(), 2, "{ranges:?}");
    }
}

#[tokio::test]
async fn root_a_blob_that_is_always_cut_ends_in_an_error() {
    let image = large();
    let server = Server::start(move |asked| {
        let mut reply = right(&image, asked);
        if is_layer(&image, asked) {
            reply.cut = Some(10);
        }
        reply
    })
    .await;
    refused(&server, Kind::RegistryUnavailable).await;
}

#[tokio::test]
async fn root_silence_ends_in_an_error_not_in_a_hang() {
    let image = large();
    let server = Server::start(move |asked| {
        let mut reply = right(&image, asked);
        if is_layer(&image, asked) {
            reply.stall = Some((100, Duration::from_secs(60)));
        }
        reply
    })
    .await;
    refused(&server, Kind::RegistryUnavailable).await;
}

#[tokio::test]
async fn root_failures_that_pass_are_waited_for() {
    for status in [429, 500, 503] {
        let image = Image::small("x");
        let count = AtomicUsize::new(0);
        let server = Server::start(move |asked| {
            if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                Reply::status(status).header("retry-after", "0")
            } else {
                right(&image, asked)
            }
        })
        .await;
        Node::new().await.pull(&server.reference("app:1")).await.unwrap();
    }
}

#[tokio::test]
async fn root_failures_that_stay_are_told() {
    for status in [429, 500, 502] {
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\ndown"}]}"#;
        let server = Server::start(move |_| Reply::status(status).body(body)).await;
        let error = refused(&server, Kind::RegistryUnavailable).await;
        assert!(error.contains("TOOMANYREQUESTS \"slowdown\""), "{error}");
    }
    let far = Server::start(|_| Reply::status(429).header("retry-after", "100000")).await;
    refused(&far, Kind::RegistryUnavailable).await;
    assert_eq!(far.asked().len(), 1, "a wait that long is not begun");
    let missing = Server::start(|_| Reply::status(404)).await;
    refused(&missing, Kind::NotFound).await;
    let node = Node::new().await;
    let error = node.pull("127.0.0.1:1/app").await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
}

#[tokio::test]
async fn root_documents_that_confuse_are_refused() {
    let image = Image::small("x");
    let html = Server::start({
        let image = image.clone();
        move |asked| {
            let mut reply = right(&image, asked);
            reply.headers.retain(|(name, _)| name != "content-type");
            reply.header("content-type", "text/html")
        }
    })
    .await;
    refused(&html, Kind::InvalidArgument).await;

    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    both["manifests"] = json!([]);
    let mut traversal: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    traversal["layers"][0]["digest"] = json!("sha256:../../x");
    let mut many: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    many["layers"] = json!(vec![many["layers"][0].clone(); 5000]);
    for (document, kind) in [
        (both.to_string().into_bytes(), Kind::InvalidArgument),
        (traversal.to_string().into_bytes(), Kind::InvalidArgument),
        (many.to_string().into_bytes(), Kind::InvalidArgument),
        (vec![b'['; 1 << 20], Kind::InvalidArgument),
        (vec![b' '; 5 << 20], Kind::ResourceExhausted),
    ] {
        let served = image.clone();
        let server = Server::start(move |asked| match asked.path.contains("/manifests/") {
            true => Reply::status(200)
                .header("content-type", MANIFEST)
                .body(&document),
            false => right(&served, asked),
        })
        .await;
        refused(&server, kind).await;
    }
}

#[tokio::test]
async fn root_a_manifest_that_is_not_the_digest_s_is_refused() {
    let (image, other) = (Image::small("x"), Image::small("y"));
    let wanted = image.manifest_digest();
    let server = Server::start(move |_| {
        Reply::status(200)
            .header("content-type", MANIFEST)
            .body(&other.manifest)
    })
    .await;
    let node = Node::new().await;
    let error = node
        .pull(&server.reference(&format!("app@{wanted}")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains(wanted.as_str()), "{error}");
    node.assert_empty().await;
}

#[tokio::test]
async fn root_bombs_end_at_their_limits() {
    let zeros = vec![0_u8; 32 << 20];
    let image = Image::new("bomb", vec![layer(Pack::Gzip, &[("zeros", &zeros)])]);
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::open(dir, |config| config.limits.unpacked = 1 << 20).await;
    let error = node.pull(&server.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
    node.assert_empty().await;
    let node = Node::open(Arc::new(tempfile::tempdir().unwrap()), |config| {
        config.limits.download = 1000;
    })
    .await;
    let error = node.pull(&server.reference("app:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
    assert_eq!(image.layers.len(), 1);
}
