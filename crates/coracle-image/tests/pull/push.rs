//! Pushes: to Debian's docker-registry, and to a server that says what it was asked.

use std::sync::{Arc, Mutex};

use coracle_image::PushRequest;
use coracle_types::image::Credentials;
use coracle_types::{Kind, Kinded};

use crate::archives::write_layout;
use crate::image::{Image, Pack, digest, layer, noise};
use crate::node::Node;
use crate::registry::{Protection, Registry};
use crate::server::{Reply, Server};

fn image() -> Image {
    Image::new(
        "pushed",
        vec![
            layer(Pack::Gzip, &[("one", &noise(3, 200_000))]),
            layer(Pack::Plain, &[("two", b"2")]),
        ],
    )
}

/// The image in a node, from an archive that stays or goes.
async fn loaded(image: &Image, keep: bool) -> (Node, tempfile::TempDir) {
    let node = Node::new().await;
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let name = serde_json::json!({"io.containerd.image.name": "r.example/app:1"});
    write_layout(&layout, image, &name);
    node.images.load(&layout, None).await.unwrap();
    if !keep {
        std::fs::remove_dir_all(&layout).unwrap();
    }
    (node, dir)
}

fn request(destination: &str) -> PushRequest {
    PushRequest {
        name: "r.example/app:1".to_owned(),
        destination: destination.to_owned(),
        credentials: None,
    }
}

#[tokio::test]
async fn root_what_is_pushed_is_pulled_with_the_same_digest() {
    let registry = Registry::start(Protection::Password).await;
    let image = image();
    let (node, _dir) = loaded(&image, true).await;
    let name = format!("{}/team/app", registry.address);
    let error = node
        .images
        .push(request(&format!("{name}:1")), &())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    let credentials = Some(Credentials {
        username: "kim".to_owned(),
        password: "correct horse".to_owned(),
        ..Credentials::default()
    });
    let push = async |node: &Node, destination: String| {
        let request = PushRequest {
            credentials: credentials.clone(),
            ..request(&destination)
        };
        node.images.push(request, &()).await.unwrap()
    };
    let pushed = push(&node, format!("{name}:1")).await;
    assert_eq!(
        (pushed.digest, pushed.notes),
        (image.manifest_digest(), Vec::new())
    );
    let other = Node::new().await;
    let pulled = other
        .pull_as(&format!("{name}:1"), credentials.clone())
        .await
        .unwrap();
    assert_eq!(pulled.id, image.id());
    // From the registry that has it to another repository of it, without the archive.
    let again = PushRequest {
        name: format!("{name}:1"),
        destination: format!("{}/copies/app:2", registry.address),
        credentials: credentials.clone(),
    };
    let copied = other.images.push(again, &()).await.unwrap();
    assert_eq!(copied.digest, image.manifest_digest());
    // Without archive and registry it is another image, and that is said.
    let (bare, _dir) = loaded(&image, false).await;
    let flat = push(&bare, format!("{}/bare/app:flat", registry.address)).await;
    assert_ne!(flat.digest, image.manifest_digest());
    assert!(flat.notes[0].contains("new digest"), "{:?}", flat.notes);
    let pulled = other
        .pull_as(
            &format!("{}/bare/app:flat", registry.address),
            credentials.clone(),
        )
        .await
        .unwrap();
    assert_eq!(pulled.settings.cmd, ["sh"]);
    assert_eq!(pulled.layers.len(), 1);
}

#[tokio::test]
async fn root_a_push_asks_for_the_right_to_write_and_sends_only_what_is_lacking() {
    let image = image();
    let there = digest(&image.layers[0].blob).to_string();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let (asked_for, broken) = (Arc::clone(&tokens), Arc::new(Mutex::new(true)));
    let server = Server::start(move |asked| {
        let path = asked.path.as_str();
        if path.starts_with("/token") {
            asked_for.lock().unwrap().push(path.to_owned());
            return Reply::status(200).body(br#"{"token":"t"}"#);
        }
        if asked.headers.get("authorization").map(String::as_str) != Some("Bearer t") {
            let host = &asked.headers["host"];
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return Reply::status(401).header("www-authenticate", &challenge);
        }
        match asked.method.as_str() {
            "HEAD" if path.contains(&there) => Reply::status(200),
            "HEAD" => Reply::status(404),
            "POST" => Reply::status(202).header("location", "/upload/1?state=x"),
            "PUT" if path.starts_with("/upload/") && std::mem::take(&mut *broken.lock().unwrap()) => {
                Reply::status(502)
            }
            "PUT" => Reply::status(201),
            _ => Reply::status(405),
        }
    })
    .await;
    let (node, _dir) = loaded(&image, true).await;
    let destination = server.reference("team/app:1");
    let pushed = node.images.push(request(&destination), &()).await.unwrap();
    assert_eq!(pushed.reference, destination);
    let scope = tokens.lock().unwrap().join(" ");
    assert!(scope.contains("repository%3Ateam%2Fapp%3Apull%2Cpush"), "{scope}");
    let asked = server.asked();
    let sent: Vec<_> = asked.iter().filter(|asked| asked.method == "PUT").collect();
    let of = |part: &str| sent.iter().filter(|asked| asked.path.contains(part)).count();
    assert_eq!(of(digest(&image.layers[0].blob).hex()), 0, "it was there");
    // The first PUT failed; the whole blob was sent anew.
    assert_eq!(of(digest(&image.layers[1].blob).hex()) + of(image.id().hex()), 3);
    let last = sent.last().unwrap();
    assert_eq!(last.path, "/v2/team/app/manifests/1", "the manifest is last");
    assert_eq!(last.body.as_bytes(), image.manifest);
}

#[tokio::test]
async fn root_a_registry_that_refuses_is_named_with_what_it_refused() {
    let server = Server::start(|asked| match asked.method.as_str() {
        "HEAD" => Reply::status(404),
        _ => Reply::status(403).body(br#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
    })
    .await;
    let (node, _dir) = loaded(&image(), true).await;
    let error = node
        .images
        .push(request(&server.reference("a:1")), &())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied);
    let words = error.to_string();
    assert!(
        words.starts_with("push ") && words.contains("DENIED") && words.contains(&server.address),
        "{words}"
    );
    let nothing = PushRequest {
        name: "no/such".to_owned(),
        ..PushRequest::default()
    };
    assert_eq!(
        node.images.push(nothing, &()).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn root_a_registry_that_is_configured_for_reading_is_not_pushed_to() {
    let server = Server::start(|_| Reply::status(500)).await;
    let (node, _dir) = loaded(&image(), true).await;
    let base = server.reference("app:1");
    let (address, _) = base.split_once('/').unwrap();
    let hosts = format!("server = \"http://{address}\"\ncapabilities = [\"pull\", \"resolve\"]\n");
    node.hosts("w.example", &hosts);
    let error = node
        .images
        .push(request("w.example/app:1"), &())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("configured to push"), "{error}");
    assert!(server.asked().is_empty());
}
