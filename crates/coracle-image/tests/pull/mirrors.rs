//! Mirrors by hosts.toml: order, capabilities, what they are told and what they may spoil.

use coracle_types::image::Credentials;
use coracle_types::{Kind, Kinded};

use crate::image::Image;
use crate::node::Node;
use crate::server::{Reply, Server, is_layer, right};

#[tokio::test]
async fn root_mirrors_are_asked_before_the_registry_and_without_credentials() {
    let image = Image::small("hub");
    let served = image.clone();
    let mirror = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    node.hosts(
        "docker.io",
        &format!(
            "[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            mirror.address
        ),
    );
    let credentials = Credentials {
        username: "kim".to_owned(),
        password: "secret".to_owned(),
        ..Credentials::default()
    };
    let pulled = node.pull_as("busybox:1", Some(credentials)).await.unwrap();
    assert!(pulled.repo_tags.contains("docker.io/library/busybox:1"));
    for asked in mirror.asked() {
        assert!(asked.path.starts_with("/v2/library/busybox/"), "{}", asked.path);
        assert!(asked.path.ends_with("?ns=docker.io"), "{}", asked.path);
        assert!(!asked.headers.contains_key("authorization"));
    }
}

#[tokio::test]
async fn root_a_mirror_that_asks_for_credentials_gets_none() {
    let image = Image::small("private");
    let mirror = Server::start(|_| Reply::status(401).header("www-authenticate", "Basic realm=\"x\"")).await;
    let served = image.clone();
    let server = Server::start(move |asked| {
        if asked.headers.contains_key("authorization") {
            right(&served, asked)
        } else {
            Reply::status(401).header("www-authenticate", "Basic realm=\"x\"")
        }
    })
    .await;
    let node = Node::new().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        server.address, mirror.address
    );
    node.hosts("r.example", &text);
    for server_address in ["", "r.example"] {
        let credentials = Credentials {
            username: "kim".to_owned(),
            password: "secret".to_owned(),
            server_address: server_address.to_owned(),
            ..Credentials::default()
        };
        node.pull_as("r.example/app:1", Some(credentials)).await.unwrap();
    }
    assert!(!mirror.asked().is_empty());
    assert!(
        mirror
            .asked()
            .iter()
            .all(|asked| !asked.headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn root_capabilities_and_paths_are_kept_to() {
    let image = Image::small("x");
    let served = image.clone();
    let mirror = Server::start(move |asked| right(&served, asked)).await;
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}/cache/r\"]\ncapabilities = [\"pull\"]\noverride_path = true\n",
        server.address, mirror.address
    );
    node.hosts("r.example_5000_", &text);
    node.pull("r.example:5000/app:1").await.unwrap();
    let manifests = server
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains("/manifests/"));
    assert_eq!(manifests.count(), 1, "the mirror must not resolve tags");
    let blobs: Vec<_> = mirror.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(blobs.len(), 2);
    assert!(
        blobs.iter().all(|path| path.starts_with("/cache/r/app/blobs/")),
        "{blobs:?}"
    );
}

#[tokio::test]
async fn root_what_a_mirror_spoils_is_taken_from_the_registry() {
    let image = Image::small("x");
    let served = image.clone();
    let mirror = Server::start(move |asked| {
        let mut reply = right(&served, asked);
        if is_layer(&served, asked) {
            reply.body[20] ^= 1;
        }
        reply
    })
    .await;
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        server.address, mirror.address
    );
    node.hosts("_default", &text);
    let pulled = node.pull("r.example/app:1").await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(server.asked().len(), 1, "only the layer");
}

#[tokio::test]
async fn root_a_broken_configuration_fails_the_pull_and_names_its_file() {
    let node = Node::new().await;
    let dir = node.hosts("r.example", "[host.\"https://m\"]\ncapabilities = [\"fly\"]\n");
    let error = node.pull("r.example/app").await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
    let away = Server::start(|_| Reply::status(503)).await;
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\n",
        away.address
    );
    node.hosts("s.example", &text);
    let error = node.pull("s.example/app").await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable);
    assert!(
        error.to_string().contains(&away.address),
        "every host is named: {error}"
    );
    assert_eq!(away.asked().len(), 1, "a mirror is not asked again and again");
}
