//! The registry does what it is told, right or wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::image::{Compression, ImageBuilder, Layer};

fn start() -> (FaultyRegistry, Image) {
    let registry = FaultyRegistry::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let layer = Layer::new().file("/hello", 0o644, "world").build();
    let image = ImageBuilder::new().layer(layer, Compression::Gzip).build();
    registry.add(&image, "some/thing", "1");
    (registry, image)
}

async fn get(registry: &FaultyRegistry, path: &str, more: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n");
    let address = registry.address;
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn manifests_and_blobs_are_served_and_counted() {
    let (registry, image) = start();
    let answer = get(&registry, "/v2/some/thing/manifests/1", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(image.digest().as_str()),
        "{answer}"
    );
    let layer = image.blobs()[0].digest.to_string();
    let path = format!("/v2/some/thing/blobs/{layer}");
    assert!(
        get(&registry, &path, "Range: bytes=5-\r\n")
            .await
            .starts_with("HTTP/1.1 206")
    );
    assert!(
        get(&registry, "/v2/some/thing/manifests/2", "")
            .await
            .starts_with("HTTP/1.1 404")
    );
    assert_eq!(registry.count("/blobs/"), 1);
    assert_eq!(registry.asked()[1].range.as_deref(), Some("bytes=5-"));
}

#[tokio::test]
async fn faults_happen_as_often_as_asked() {
    let (registry, _) = start();
    let path = "/v2/some/thing/manifests/1";
    registry.fail("/manifests/", 1, Trouble::Status(429));
    let answer = get(&registry, path, "").await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 1"),
        "{answer}"
    );
    let whole = get(&registry, path, "").await;
    assert!(whole.starts_with("HTTP/1.1 200"));

    registry.fail("/manifests/", 1, Trouble::Cut(10));
    let answer = get(&registry, path, "").await;
    assert!(
        whole.starts_with(&answer) && answer.len() < whole.len(),
        "{answer}"
    );
    registry.fail("/manifests/", 1, Trouble::Corrupt);
    let answer = get(&registry, path, "").await;
    assert!(answer != whole && answer.len() == whole.len(), "{answer}");
    registry.fail("/manifests/", 1, Trouble::Slow(100));
    assert_eq!(get(&registry, path, "").await.len(), whole.len());
    registry.fail("/manifests/", u32::MAX, Trouble::Status(500));
    for _ in 0..2 {
        assert!(get(&registry, path, "").await.starts_with("HTTP/1.1 500"));
    }
    registry.heal();
    assert!(get(&registry, path, "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn ranges_logins_and_waits_are_refused_as_asked() {
    let (registry, image) = start();
    let layer = image.blobs()[0].digest.to_string();
    let path = format!("/v2/some/thing/blobs/{layer}");
    registry.fail("/blobs/", 1, Trouble::Whole);
    let answer = get(&registry, &path, "Range: bytes=5-\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    registry.fail("/blobs/", 1, Trouble::Busy(77));
    assert!(get(&registry, &path, "").await.contains("retry-after: 77"));
    registry.fail("/blobs/", 1, Trouble::Challenge);
    let bearer = "Authorization: Bearer a-token-of-the-testkit\r\n";
    assert!(get(&registry, &path, bearer).await.contains("Bearer realm="));
    registry.fail("/blobs/", 1, Trouble::Stall(5));
    let stalled = tokio::time::timeout(std::time::Duration::from_millis(200), get(&registry, &path, ""));
    // The thread that waits ends with the registry.
    assert!(stalled.await.is_err(), "the answer came to an end");
    drop(registry);
}

#[tokio::test]
async fn logins_are_asked_for() {
    let (registry, _) = start();
    let path = "/v2/some/thing/manifests/1";
    // base64 of coracle:s3cret
    let basic = "Authorization: Basic Y29yYWNsZTpzM2NyZXQ=\r\n";
    registry.require(Login::Basic);
    assert!(get(&registry, path, "").await.contains("www-authenticate: Basic"));
    assert!(get(&registry, path, basic).await.starts_with("HTTP/1.1 200"));
    registry.require(Login::Bearer);
    let refused = get(&registry, path, basic).await;
    assert!(refused.contains("Bearer realm=\"http://127.0.0.1:"), "{refused}");
    assert!(
        get(&registry, "/token?service=testkit", basic)
            .await
            .contains("a-token-of-the-testkit")
    );
    let bearer = "Authorization: Bearer a-token-of-the-testkit\r\n";
    assert!(get(&registry, path, bearer).await.starts_with("HTTP/1.1 200"));
}
